package traffic

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// XDP return codes and offsets of struct xdp_md (include/uapi/linux/bpf.h).
const (
	xdpAborted = 0
	xdpDrop    = 1
	xdpTX      = 3

	mdData    = 0
	mdDataEnd = 4
)

// The generator's state: one array element that the program alone writes while it runs.
const (
	stateSent   = 0 // frames made so far
	stateRandom = 8 // state of the pseudo-random sequence
	stateSize   = 16
)

// Knuth's multiplier and increment for a linear congruential generator modulo 2⁶⁴ (MMIX); the top bits are used.
const (
	lcgMultiplier = 6364136223846793005
	lcgIncrement  = 1442695040888963407
)

// newState returns the map of the generator's state.
func newState() (*ebpf.Map, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "traffic_state", Type: ebpf.Array, KeySize: 4, ValueSize: stateSize, MaxEntries: 1})
	if err != nil {
		return nil, fmt.Errorf("make the generator's map: %w", err)
	}
	return m, nil
}

// generator returns the program that makes a frame of f out of the template: see Frame for what it writes. state is the
// descriptor of the map.
func generator(f *Flows, side Side, order Order, template []byte, state int) asm.Instructions {
	const (
		ctx, data, mem, flow    = asm.R1, asm.R7, asm.R8, asm.R9
		port, low, sum, scratch = asm.R2, asm.R4, asm.R3, asm.R5
	)
	// Offsets of what varies.
	ip := etherLen
	l4, addrAt := ip+20, ip+12 // IPv4: source address
	addrLen := 4
	if f.Client.Is6() {
		l4, addrAt, addrLen = ip+40, ip+8, 16
	}
	portAt, checkAt := l4, l4+6
	if f.Proto == TCP {
		checkAt = l4 + 16
	}
	if side == Replies {
		addrAt, portAt = addrAt+addrLen, portAt+2
	}
	lowAt := addrAt + addrLen - 2

	// The sums of everything that does not vary: the template's with the varying words and the checksum at zero.
	base := append([]byte(nil), template...)
	for _, at := range []int{lowAt, portAt, checkAt} {
		base[at], base[at+1] = 0, 0
	}
	fixed := uint32(fold(sum16(base[l4:]) + sum16(addresses(base, f)) + uint32(f.Proto) + uint32(len(base)-l4)))

	p := asm.Instructions{
		asm.LoadMem(scratch, ctx, mdDataEnd, asm.Word),
		asm.LoadMem(data, ctx, mdData, asm.Word),
		asm.Mov.Reg(sum, data),
		asm.Add.Imm(sum, int32(f.headers())),
		asm.JGT.Reg(sum, scratch, "short"),
		asm.LoadMapValue(mem, state, 0),
		asm.LoadMem(flow, mem, stateSent, asm.DWord),
		asm.Mov.Reg(scratch, flow),
		asm.Add.Imm(scratch, 1),
		asm.StoreMem(mem, stateSent, scratch, asm.DWord),
	}
	if order == Random {
		p = append(p,
			asm.LoadMem(flow, mem, stateRandom, asm.DWord),
			asm.LoadImm(scratch, lcgMultiplier, asm.DWord),
			asm.Mul.Reg(flow, scratch),
			asm.LoadImm(scratch, lcgIncrement, asm.DWord),
			asm.Add.Reg(flow, scratch),
			asm.StoreMem(mem, stateRandom, flow, asm.DWord),
			asm.RSh.Imm(flow, 33),
		)
	}
	p = append(p,
		asm.LoadImm(scratch, int64(f.Count), asm.DWord),
		asm.Mod.Reg(flow, scratch),
		asm.Mov.Reg(port, flow),
		asm.And.Imm(port, portsPerHost-1),
		asm.Add.Imm(port, firstPort),
		asm.Mov.Reg(low, flow),
		asm.RSh.Imm(low, portBits),
		asm.Add.Imm(low, int32(f.clientLow())),
		// transport checksum
		asm.Mov.Imm(sum, int32(fixed)),
		asm.Add.Reg(sum, port),
		asm.Add.Reg(sum, low),
	)
	p = append(p, complement(sum, scratch)...)
	if f.Proto == UDP { // RFC 768: zero means that there is none
		p = append(p,
			asm.JNE.Imm(sum, 0, "nonzero"),
			asm.Mov.Imm(sum, 0xffff),
			asm.HostTo(asm.BE, sum, asm.Half).WithSymbol("nonzero"))
	} else {
		p = append(p, asm.HostTo(asm.BE, sum, asm.Half))
	}
	p = append(p, asm.StoreMem(data, int16(checkAt), sum, asm.Half))
	if f.Client.Is4() {
		header := append([]byte(nil), template[ip:l4]...)
		header[lowAt-ip], header[lowAt-ip+1], header[10], header[11] = 0, 0, 0, 0
		p = append(p,
			asm.Mov.Imm(sum, int32(fold(sum16(header)))),
			asm.Add.Reg(sum, low))
		p = append(p, complement(sum, scratch)...)
		p = append(p,
			asm.HostTo(asm.BE, sum, asm.Half),
			asm.StoreMem(data, int16(ip+10), sum, asm.Half))
	}
	return append(p,
		asm.HostTo(asm.BE, port, asm.Half),
		asm.StoreMem(data, int16(portAt), port, asm.Half),
		asm.HostTo(asm.BE, low, asm.Half),
		asm.StoreMem(data, int16(lowAt), low, asm.Half),
		asm.Mov.Imm(asm.R0, xdpTX),
		asm.Return(),
		asm.Mov.Imm(asm.R0, xdpAborted).WithSymbol("short"),
		asm.Return(),
	)
}

// addresses returns both IP addresses of a frame.
func addresses(frame []byte, f *Flows) []byte {
	if f.Client.Is4() {
		return frame[etherLen+12 : etherLen+20]
	}
	return frame[etherLen+8 : etherLen+40]
}

// complement folds reg, a sum below 2³², to 16 bits and inverts it.
func complement(reg, scratch asm.Register) asm.Instructions {
	var p asm.Instructions
	for range 2 {
		p = append(p,
			asm.Mov.Reg(scratch, reg),
			asm.RSh.Imm(scratch, 16),
			asm.And.Imm(reg, 0xffff),
			asm.Add.Reg(reg, scratch))
	}
	return append(p, asm.Xor.Imm(reg, 0xffff))
}

// The sink's counters: an array element per processor.
const (
	sinkFrames = 0
	sinkBytes  = 8
	sinkOthers = 16
	sinkSize   = 24
)

// sink returns the program that counts the frames to mac, and all others apart, and drops everything. counters is the
// descriptor of a per-processor array.
func sink(mac [6]byte, counters int) asm.Instructions {
	const (
		data, end, mem, a, b = asm.R6, asm.R7, asm.R0, asm.R1, asm.R2
	)
	// The address as the two loads of a little-endian or big-endian machine see it.
	high, low := native32(mac[:4]), native16(mac[4:])
	return asm.Instructions{
		asm.LoadMem(data, asm.R1, mdData, asm.Word),
		asm.LoadMem(end, asm.R1, mdDataEnd, asm.Word),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, counters),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(mem, 0, "drop"),
		asm.Mov.Reg(a, data),
		asm.Add.Imm(a, etherLen),
		asm.JGT.Reg(a, end, "other"),
		asm.LoadMem(a, data, 0, asm.Word),
		asm.LoadImm(b, int64(high), asm.DWord),
		asm.JNE.Reg(a, b, "other"),
		asm.LoadMem(a, data, 4, asm.Half),
		asm.JNE.Imm(a, int32(low), "other"),
		asm.LoadMem(a, mem, sinkFrames, asm.DWord),
		asm.Add.Imm(a, 1),
		asm.StoreMem(mem, sinkFrames, a, asm.DWord),
		asm.Sub.Reg(end, data), // the frame's length
		asm.LoadMem(a, mem, sinkBytes, asm.DWord),
		asm.Add.Reg(a, end),
		asm.StoreMem(mem, sinkBytes, a, asm.DWord),
		asm.Ja.Label("drop"),
		asm.LoadMem(a, mem, sinkOthers, asm.DWord).WithSymbol("other"),
		asm.Add.Imm(a, 1),
		asm.StoreMem(mem, sinkOthers, a, asm.DWord),
		asm.Mov.Imm(asm.R0, xdpDrop).WithSymbol("drop"),
		asm.Return(),
	}
}
