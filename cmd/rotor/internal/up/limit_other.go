//go:build !unix

package up

func bearFileLimit() {}
