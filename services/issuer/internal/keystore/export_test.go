package keystore

// Open opens a box, for the fuzz test.
func Open(k KEK, id string, b Box) ([]byte, error) { return k.open(id, b) }
