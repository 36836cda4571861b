package main

import (
	"encoding/binary"
	"unsafe"
)

// The layout that the program writes (struct book in bpf/witness.c) is the one that Go reads.
const (
	_ = uint(unsafe.Sizeof(witnessSight{}) - 96)
	_ = uint(96 - unsafe.Sizeof(witnessSight{}))
	_ = uint(unsafe.Offsetof(witnessBook{}.Sight) - 8)
	_ = uint(8 - unsafe.Offsetof(witnessBook{}.Sight))
	_ = uint(unsafe.Sizeof(witnessBook{}) - (8 + sights*96))
	_ = uint(8 + sights*96 - unsafe.Sizeof(witnessBook{}))
)

// sightBytes returns the memory of s.
func sightBytes(s *witnessSight) []byte { return (*[unsafe.Sizeof(*s)]byte)(unsafe.Pointer(s))[:] }

// sightOffset returns where sight i lies in the book.
func sightOffset(i uint64) int64 {
	return int64(unsafe.Offsetof(witnessBook{}.Sight)) + int64(i)*int64(unsafe.Sizeof(witnessSight{}))
}

// nativeUint64 reads a number in the machine's byte order.
func nativeUint64(b [8]byte) uint64 { return binary.NativeEndian.Uint64(b[:]) }
