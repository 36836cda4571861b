package rules

import (
	"unsafe"

	"corewire/internal/packet"
)

// Compile-time assertions of what the assembly takes for granted: sizes that it shifts by, and what it loads with one instruction.
var (
	_ [16]byte = [unsafe.Sizeof(shape{})]byte{}
	_ [16]byte = [unsafe.Sizeof(narrow{})]byte{}
	_ [8]byte  = [unsafe.Sizeof(slot(0))]byte{}
	_ [4]byte  = [unsafe.Sizeof(compiledRule(0))]byte{}
	_ [0]byte  = [unsafe.Offsetof(narrow{}.addr) + unsafe.Offsetof(shape{}.span)]byte{}
	_ [8]byte  = [unsafe.Offsetof(narrow{}.meta)]byte{}
	_ [8]byte  = [unsafe.Offsetof(shape{}.low)]byte{}
	_ [64]byte = [BurstSize]byte{}
)

// Of a packet fillBurst loads twice 64 bytes: from Hint on, and the last ones. What it takes of them, and where it is there.
const (
	packetSize  = unsafe.Sizeof(packet.Packet{})
	packetHead  = unsafe.Offsetof(packet.Packet{}.Hint)
	packetTail  = packetSize - 64
	headSrc     = (unsafe.Offsetof(packet.Packet{}.Src) + unsafe.Offsetof(packet.Addr{}.Lo) - packetHead) / 4
	headDst     = (unsafe.Offsetof(packet.Packet{}.Dst) + unsafe.Offsetof(packet.Addr{}.Lo) - packetHead) / 4
	tailL4      = unsafe.Offsetof(packet.Packet{}.L4) - packetTail
	tailEnd     = unsafe.Offsetof(packet.Packet{}.End) - packetTail
	tailSrcPort = unsafe.Offsetof(packet.Packet{}.SrcPort) - packetTail
	tailDstPort = unsafe.Offsetof(packet.Packet{}.DstPort) - packetTail
	tailFlags   = unsafe.Offsetof(packet.Packet{}.Flags) - packetTail
	tailFamily  = unsafe.Offsetof(packet.Packet{}.Family) - packetTail
	tailProto   = unsafe.Offsetof(packet.Packet{}.Proto) - packetTail
	tailIn      = unsafe.Offsetof(packet.Packet{}.In) - packetTail
)

// These do not compile where a field is not in what is loaded, or lies elsewhere in its half of a word.
var (
	_ [packetSize - 64 - packetHead]byte
	_ [60 - 4*headSrc]byte
	_ [60 - 4*headDst]byte
	_ [60 - tailL4]byte
	_ [60 - tailEnd]byte
	_ [62 - tailSrcPort]byte
	_ [62 - tailDstPort]byte
	_ [62 - tailFlags]byte
	_ [63 - tailFamily]byte
	_ [63 - tailProto]byte
	_ [63 - tailIn]byte
	_ [1]byte = [unsafe.Sizeof(packet.Packet{}.In)]byte{}
	_ [8]byte = [unsafe.Sizeof(packet.Packet{}.Hint)]byte{}
)
