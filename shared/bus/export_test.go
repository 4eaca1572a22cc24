package bus

import "context"

// Renew does at once what Keep does every now and then.
func (t *Term) Renew(ctx context.Context) error { return t.renew(ctx) }
