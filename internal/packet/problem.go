package packet

// Problem says why an IP packet is malformed. The zero value means that nothing was found.
type Problem uint8

// ProblemNone: the packet is well formed as far as Parse looks.
const ProblemNone Problem = 0
