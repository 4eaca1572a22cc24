#!/bin/sh
# Builds kube-apiserver, etcd and kubectl into the user's cache, once for each
# go.sum, and prints the folder. The first time takes some 12 minutes of two cores.
set -eu
cd "$(dirname "$0")"
sum=$(cat go.mod go.sum | sha256sum | cut -c1-16)
dir=${XDG_CACHE_HOME:-$HOME/.cache}/rotor-test/kube-$sum
version=$(awk '$1 == "k8s.io/kubernetes" {print $2}' go.mod)
number=${version#v}
minor=${number#*.}
package=k8s.io/component-base/version
stamp="-X $package.gitVersion=$version -X $package.gitMajor=${number%%.*} -X $package.gitMinor=${minor%%.*}"
export CGO_ENABLED=0 GOWORK=off

# build NAME PACKAGE: one program, unless it is there.
build() {
	[ ! -x "$dir/$1" ] || return 0
	echo "building $1 into $dir: some minutes" >&2
	mkdir -p "$dir"
	go build -buildvcs=false -trimpath -ldflags "-s -w $stamp" -o "$dir/$1.new" "$2" >&2
	mv "$dir/$1.new" "$dir/$1"
}

build etcd go.etcd.io/etcd/server/v3
build kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
build kubectl k8s.io/kubernetes/cmd/kubectl
echo "$dir"
