package inspect

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Cluster is a Kubernetes cluster whose Secrets are read.
type Cluster struct {
	Kubeconfig string // file; that of kubectl, if empty
	Context    string // the current one, if empty
	Namespace  string // all of them, if empty
}

// String names the cluster where something is wrong with it.
func (c Cluster) String() string {
	if c.Context == "" {
		return "current context"
	}
	return "context " + c.Context
}

// pageSize bounds what the API server holds in memory for us.
const pageSize = 200

// secrets looks at every Secret, in pages.
func (r *run) secrets(ctx context.Context, c Cluster) error {
	scheme := runtime.NewScheme() // of Secrets alone: that of client-go brings all of Kubernetes along
	if err := corev1.AddToScheme(scheme); err != nil {
		return fmt.Errorf("types of Secrets: %w", err)
	}
	client, err := c.client(scheme, r.Timeout)
	if err != nil {
		return err
	}
	parameters := runtime.NewParameterCodec(scheme)
	options := metav1.ListOptions{Limit: pageSize}
	for {
		var page corev1.SecretList
		err := client.Get().Namespace(c.Namespace).Resource("secrets").
			VersionedParams(&options, parameters).Do(ctx).Into(&page)
		if err != nil {
			return fmt.Errorf("list secrets: %w", err)
		}
		for i := range page.Items {
			r.secret(&page.Items[i])
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return nil
		}
	}
}

func (c Cluster) client(scheme *runtime.Scheme, timeout time.Duration) (*rest.RESTClient, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = c.Kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: c.Context}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	config.APIPath, config.GroupVersion = "/api", &corev1.SchemeGroupVersion
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.Timeout = timeout
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	return client, nil
}

// secret looks at the values of a Secret. Private keys in it are passed over.
func (r *run) secret(s *corev1.Secret) {
	for _, key := range slices.Sorted(maps.Keys(s.Data)) {
		at := place{source: "secret " + s.Namespace + "/" + s.Name, item: key}
		value := s.Data[key]
		if strings.HasSuffix(key, ".p12") || strings.HasSuffix(key, ".pfx") {
			if err := r.pkcs12(at, value); err != nil {
				r.fail(at.source+" "+at.item, err)
			}
			continue
		}
		if !r.text(at, value) && !r.der(at, value) {
			r.document(at, value, "")
		}
	}
}
