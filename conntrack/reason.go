package conntrack

// Reason says which check made a packet INVALID.
type Reason uint8
