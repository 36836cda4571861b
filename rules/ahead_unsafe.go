package rules

import "unsafe"

// Compile-time assertions of what ahead_amd64.s takes for granted: sizes that it shifts by, and what it loads with one instruction.
var (
	_ [32]byte = [unsafe.Sizeof(lane{})]byte{}
	_ [16]byte = [unsafe.Sizeof(shape{})]byte{}
	_ [16]byte = [unsafe.Sizeof(narrow{})]byte{}
	_ [8]byte  = [unsafe.Sizeof(slot(0))]byte{}
	_ [0]byte  = [unsafe.Offsetof(lane{}.key) + unsafe.Offsetof(narrow{}.addr) + unsafe.Offsetof(shape{}.span)]byte{}
	_ [8]byte  = [unsafe.Offsetof(narrow{}.meta)]byte{}
	_ [8]byte  = [unsafe.Offsetof(shape{}.low)]byte{}
)
