package rules

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"corewire/internal/packet"
)

// maxBPF bounds the instructions of a program (XT_BPF_MAX_NUM_INSTR).
const maxBPF = 64

// BPFMatch is -m bpf: a classic BPF program that is run on the datagram from its IP header on, and matches when it does not
// return 0.
type BPFMatch struct{ Program []BPFInstruction }

// BPFInstruction is an instruction as the kernel has it (struct sock_filter).
type BPFInstruction struct {
	Code   uint16
	JT, JF uint8
	K      uint32
}

var bpfModule = module{name: "bpf", family: Both, make: func() Extension { return &BPFMatch{} }, options: []option{
	{"bytecode", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) { m.(*BPFMatch).parse(rp, a[0]) }},
	{"object-pinned", 1, 1, false, func(rp *ruleParser, _ Extension, _ bool, a []token) {
		rp.fail(a[0].col, a[0].text, "a program as --bytecode", "a pinned program is the kernel's, which no packet of the wire comes to")
	}},
}, finish: needOption("bytecode")}

// parse reads "length,code jt jf k,…", and checks the program.
func (m *BPFMatch) parse(rp *ruleParser, a token) {
	head, rest, _ := strings.Cut(a.text, ",")
	n, err := strconv.ParseUint(strings.TrimSpace(head), 10, 16)
	if err != nil || n == 0 || n > maxBPF {
		rp.fail(a.col, head, fmt.Sprintf("a number of instructions from 1 to %d, and a comma", maxBPF), "")
		return
	}
	rest = strings.TrimSuffix(rest, ",")
	col := a.col + len(head) + 1
	for s := range strings.SplitSeq(rest, ",") {
		f := strings.Fields(s)
		x := BPFInstruction{}
		ok := len(f) == 4
		for i, bits := range []int{16, 8, 8, 32} {
			if !ok {
				break
			}
			v, err := strconv.ParseUint(f[i], 10, bits)
			ok = err == nil
			switch i {
			case 0:
				x.Code = uint16(v)
			case 1:
				x.JT = uint8(v)
			case 2:
				x.JF = uint8(v)
			case 3:
				x.K = uint32(v)
			}
		}
		if !ok {
			rp.fail(col, s, "an instruction: code, jt, jf and k", "")
			return
		}
		if m.Program = append(m.Program, x); len(m.Program) > int(n) {
			break
		}
		col += len(s) + 1
	}
	if len(m.Program) != int(n) {
		rp.fail(a.col, head, "as many instructions as there are", "")
		return
	}
	if at, expected, hint := bpfProgram(m.Program).verify(); expected != "" {
		rp.fail(a.col, fmt.Sprintf("instruction %d", at), expected, hint)
	}
}

// Name returns "bpf".
func (m *BPFMatch) Name() string { return "bpf" }

// AppendSave implements Extension.
func (m *BPFMatch) AppendSave(b []byte) []byte {
	b = fmt.Appendf(b, " --bytecode \"%d", len(m.Program))
	for _, x := range m.Program {
		b = fmt.Appendf(b, ",%d %d %d %d", x.Code, x.JT, x.JF, x.K)
	}
	return append(b, '"')
}

// AppendList implements lister.
func (m *BPFMatch) AppendList(b []byte) []byte {
	b = append(b, "match bpf "...)
	for i, x := range m.Program {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, "%d %d %d %d", x.Code, x.JT, x.JF, x.K)
	}
	return append(b, ' ')
}

func (m *BPFMatch) compile(c *compiler) {
	c.rs.needs |= NeedMark
	c.ask(pred{op: opBPF, a: keep(&c.cur.bpfs, bpfProgram(m.Program))})
}

// bpfProgram is a program that is run.
type bpfProgram []BPFInstruction

// Parts of an instruction's code (include/uapi/linux/bpf_common.h).
const (
	bpfLD, bpfLDX, bpfST, bpfSTX, bpfALU, bpfJMP, bpfRET, bpfMISC = 0, 1, 2, 3, 4, 5, 6, 7

	bpfW, bpfH, bpfB                                       = 0x00, 0x08, 0x10
	bpfIMM, bpfABS, bpfIND, bpfMEM, bpfLEN, bpfMSH         = 0x00, 0x20, 0x40, 0x60, 0x80, 0xa0
	bpfADD, bpfSUB, bpfMUL, bpfDIV, bpfOR, bpfAND          = 0x00, 0x10, 0x20, 0x30, 0x40, 0x50
	bpfLSH, bpfRSH, bpfNEG, bpfMOD, bpfXOR                 = 0x60, 0x70, 0x80, 0x90, 0xa0
	bpfJA, bpfJEQ, bpfJGT, bpfJGE, bpfJSET                 = 0x00, 0x10, 0x20, 0x30, 0x40
	bpfX                                                   = 0x08
	bpfA                                                   = 0x10
	bpfTAX, bpfTXA                                         = 0x00, 0x80
	bpfWords                                               = 16         // of scratch memory
	bpfAncillary                                    uint32 = 0xfffff000 // SKF_AD_OFF
	bpfNetwork                                      uint32 = 0xfff00000 // SKF_NET_OFF
	bpfLink                                         uint32 = 0xffe00000 // SKF_LL_OFF
	ancillaryProtocol, ancillaryType, ancillaryMark        = 0, 4, 20
	ancillaryXor                                           = 40
)

// verify checks a program as the kernel does (bpf_check_classic and check_load_and_stores in net/core/filter.c): what it says
// is expected, at which instruction; "" when it is sound. All jumps lead forwards, so that it ends.
func (prog bpfProgram) verify() (at int, expected, hint string) {
	for i, x := range prog {
		left := uint32(len(prog) - i - 1) // instructions behind it
		if !x.known() {
			return i, "an instruction of classic BPF", ""
		}
		switch x.Code {
		case bpfALU | bpfDIV, bpfALU | bpfMOD:
			if x.K == 0 {
				return i, "a divisor other than 0", ""
			}
		case bpfALU | bpfLSH, bpfALU | bpfRSH:
			if x.K > 31 {
				return i, "a shift by less than 32", ""
			}
		case bpfLD | bpfMEM, bpfLDX | bpfMEM, bpfST, bpfSTX:
			if x.K >= bpfWords {
				return i, "a word of memory below 16", ""
			}
		case bpfJMP | bpfJA:
			if x.K >= left {
				return i, "a jump to an instruction", ""
			}
		case bpfLD | bpfW | bpfABS, bpfLD | bpfH | bpfABS, bpfLD | bpfB | bpfABS:
			if x.K < bpfAncillary {
				break
			}
			switch x.K - bpfAncillary {
			case ancillaryProtocol, ancillaryType, ancillaryMark, ancillaryXor:
			default:
				return i, "a load of what the packet holds, or of protocol, type or mark", "what is not in a packet (interface, queue, processor, chance, …) is not the same on a wire"
			}
		}
		if x.Code&7 == bpfJMP && x.Code != bpfJMP|bpfJA && (uint32(x.JT) >= left || uint32(x.JF) >= left) {
			return i, "a jump to an instruction", ""
		}
	}
	if last := prog[len(prog)-1].Code; last != bpfRET && last != bpfRET|bpfA {
		return len(prog) - 1, "a return at the end", ""
	}
	// Words of memory that every way to an instruction has written.
	ways := make([]uint32, len(prog))
	for i := range ways {
		ways[i] = 1<<bpfWords - 1
	}
	written := uint32(0)
	for i, x := range prog {
		written &= ways[i]
		switch {
		case x.Code == bpfST || x.Code == bpfSTX:
			written |= 1 << x.K
		case x.Code == bpfLD|bpfMEM || x.Code == bpfLDX|bpfMEM:
			if written>>x.K&1 == 0 {
				return i, "a word of memory that was written before", ""
			}
		case x.Code == bpfJMP|bpfJA:
			ways[i+1+int(x.K)] &= written
			written = 1<<bpfWords - 1
		case x.Code&7 == bpfJMP:
			ways[i+1+int(x.JT)] &= written
			ways[i+1+int(x.JF)] &= written
			written = 1<<bpfWords - 1
		}
	}
	return 0, "", ""
}

// known says that the kernel knows the code (chk_code_allowed).
func (x *BPFInstruction) known() bool {
	switch x.Code & 7 {
	case bpfLD:
		switch x.Code {
		case bpfLD | bpfW | bpfABS, bpfLD | bpfH | bpfABS, bpfLD | bpfB | bpfABS, bpfLD | bpfW | bpfIND, bpfLD | bpfH | bpfIND, bpfLD | bpfB | bpfIND,
			bpfLD | bpfW | bpfLEN, bpfLD | bpfIMM, bpfLD | bpfMEM:
			return true
		}
	case bpfLDX:
		switch x.Code {
		case bpfLDX | bpfW | bpfLEN, bpfLDX | bpfB | bpfMSH, bpfLDX | bpfIMM, bpfLDX | bpfMEM:
			return true
		}
	case bpfST:
		return x.Code == bpfST
	case bpfSTX:
		return x.Code == bpfSTX
	case bpfALU:
		return x.Code&0xff00 == 0 && (x.Code&0xf0 <= bpfXOR && x.Code&0xf0 != bpfNEG || x.Code == bpfALU|bpfNEG)
	case bpfJMP:
		return x.Code == bpfJMP|bpfJA || x.Code&0xff00 == 0 && x.Code&0xf0 >= bpfJEQ && x.Code&0xf0 <= bpfJSET
	case bpfRET:
		return x.Code == bpfRET || x.Code == bpfRET|bpfA
	case bpfMISC:
		return x.Code == bpfMISC|bpfTAX || x.Code == bpfMISC|bpfTXA
	}
	return false
}

// run runs a program that verify found sound and returns what it returns. A load from behind the datagram, and a division by 0,
// return 0.
func (prog bpfProgram) run(p *packet.Packet, c *Context) uint32 {
	var a, x uint32
	var mem [bpfWords]uint32
	d := p.Frame[p.L3:p.End]
	for i := 0; i < len(prog); i++ {
		in := &prog[i]
		k := in.K
		switch in.Code & 7 {
		case bpfLD:
			switch in.Code & 0xe0 {
			case bpfIMM:
				a = k
				continue
			case bpfMEM:
				a = mem[k&(bpfWords-1)]
				continue
			case bpfLEN:
				a = uint32(len(d))
				continue
			case bpfIND:
				k += x
			case bpfABS:
				if k < bpfAncillary {
					break
				}
				switch k - bpfAncillary {
				case ancillaryProtocol:
					if a = packet.EtherTypeIPv4; p.Family == 6 {
						a = packet.EtherTypeIPv6
					}
				case ancillaryType:
					a = uint32(linkType(p))
				case ancillaryMark:
					a = c.Mark
				case ancillaryXor:
					a ^= x
				}
				continue
			}
			v, ok := bpfLoad(p, d, k, in.Code&(bpfH|bpfB))
			if !ok {
				return 0
			}
			a = v
		case bpfLDX:
			switch in.Code & 0xe0 {
			case bpfIMM:
				x = k
			case bpfMEM:
				x = mem[k&(bpfWords-1)]
			case bpfLEN:
				x = uint32(len(d))
			case bpfMSH:
				v, ok := bpfLoad(p, d, k, bpfB)
				if !ok {
					return 0
				}
				x = v & 15 * 4
			}
		case bpfST:
			mem[k&(bpfWords-1)] = a
		case bpfSTX:
			mem[k&(bpfWords-1)] = x
		case bpfALU:
			if in.Code&bpfX != 0 {
				k = x
			}
			switch in.Code & 0xf0 {
			case bpfADD:
				a += k
			case bpfSUB:
				a -= k
			case bpfMUL:
				a *= k
			case bpfDIV:
				if k == 0 {
					return 0
				}
				a /= k
			case bpfMOD:
				if k == 0 {
					return 0
				}
				a %= k
			case bpfOR:
				a |= k
			case bpfAND:
				a &= k
			case bpfXOR:
				a ^= k
			case bpfLSH:
				a <<= k & 31
			case bpfRSH:
				a >>= k & 31
			case bpfNEG:
				a = -a
			}
		case bpfJMP:
			if in.Code == bpfJMP|bpfJA {
				i += int(k)
				continue
			}
			if in.Code&bpfX != 0 {
				k = x
			}
			holds := false
			switch in.Code & 0xf0 {
			case bpfJEQ:
				holds = a == k
			case bpfJGT:
				holds = a > k
			case bpfJGE:
				holds = a >= k
			case bpfJSET:
				holds = a&k != 0
			}
			if holds {
				i += int(in.JT)
			} else {
				i += int(in.JF)
			}
		case bpfRET:
			if in.Code == bpfRET|bpfA {
				return a
			}
			return k
		case bpfMISC:
			if in.Code == bpfMISC|bpfTXA {
				a = x
			} else {
				x = a
			}
		}
	}
	return 0
}

// bpfLoad loads from the datagram d at an offset. Offsets from bpfNetwork on are from the IP header too, those from bpfLink on
// from the Ethernet header, of which a VLAN tag is then no part, as the kernel has taken it out.
func bpfLoad(p *packet.Packet, d []byte, at uint32, size uint16) (uint32, bool) {
	n := 4 >> bits.Len16(size>>3)
	switch {
	case at < 1<<31:
	case at >= bpfNetwork:
		at -= bpfNetwork
	case at >= bpfLink && p.L3 >= packet.EthernetHeader:
		if at -= bpfLink; at < packet.EthernetHeader {
			return bpfLinkLoad(p, d, at, n)
		}
		at -= packet.EthernetHeader
	default:
		return 0, false
	}
	if uint64(at)+uint64(n) > uint64(len(d)) {
		return 0, false
	}
	switch n {
	case 4:
		return binary.BigEndian.Uint32(d[at:]), true
	case 2:
		return uint32(binary.BigEndian.Uint16(d[at:])), true
	}
	return uint32(d[at]), true
}

// bpfLinkLoad loads bytes that begin in the Ethernet header.
func bpfLinkLoad(p *packet.Packet, d []byte, at uint32, n int) (v uint32, ok bool) {
	for range n {
		b := byte(0)
		switch {
		case at < 12:
			b = p.Frame[at]
		case at < packet.EthernetHeader:
			b = p.Frame[p.L3-packet.EthernetHeader+at]
		case int(at-packet.EthernetHeader) < len(d):
			b = d[at-packet.EthernetHeader]
		default:
			return 0, false
		}
		v = v<<8 | uint32(b)
		at++
	}
	return v, true
}
