package ring

import (
	"fmt"
	"time"

	"corewire/internal/packet"
)

// Report says what a link really got, as far as that can differ from what was asked for.
type Report struct {
	Driver           Driver        // DriverXSK or DriverAsavie
	Fallback         string        // why DriverAuto took DriverAsavie; "" if it did not
	Workers          int           // wires, and queues of each port
	FailMode         FailMode      //
	HeartbeatTimeout time.Duration //
	ChunkSize        int           // bytes
	PinPath          string        // directory of this link's pins
	StatePath        string        // file with what Close and Release restore
	Port             [packet.Ports]PortReport
}

// PortReport is one port's part of a Report.
type PortReport struct {
	Interface  string    // the kernel's name of it
	Index      int       // its index
	Driver     string    // its kernel driver, "" if it does not say
	MTU        int       // bytes
	Queues     int       // all of them served
	XDPMode    XDPMode   // as the kernel says it
	ZeroCopy   int       // queues with zero copy; the others copy
	NeedWakeup int       // queues whose driver says when it must be woken
	SharedUMEM int       // queues whose socket has a UMEM in common with another one; all with DriverXSK, if both ports have the same copy mode
	TXBudget   int       // frames per transmitting system call in copy mode
	Up         bool      // carrier; changes, see Link.Up
	TakenOver  bool      // from a killed process, without a moment without a program
	Changed    []Setting // what Close restores
	Notes      []string  // what an operator should know: settings that could not be changed, addresses out of reach
}

// Copy returns "zerocopy", "copy", or how many queues have which.
func (p *PortReport) Copy() string {
	switch p.ZeroCopy {
	case 0:
		return "copy"
	case p.Queues:
		return "zerocopy"
	}
	return fmt.Sprintf("zerocopy on %d of %d queues", p.ZeroCopy, p.Queues)
}

// fillReport asks kernel and sockets.
func (l *Link) fillReport(c *Config) error {
	r := &l.report
	r.Workers, r.FailMode, r.HeartbeatTimeout, r.ChunkSize = len(l.wires), c.FailMode, c.HeartbeatTimeout, c.ChunkSize
	r.PinPath, r.StatePath = l.pins.dir, l.file.path
	for port, d := range l.device {
		if ok, err := l.host.refresh(d); err != nil || !ok {
			return fmt.Errorf("%s interface %s is gone: %w", d.port, d.name, err)
		}
		p := &r.Port[port]
		p.Interface, p.Index, p.Driver, p.MTU, p.Queues = d.name, d.index, d.driver, d.mtu, d.rx
		p.Changed = l.record.Port[port].Settings
		if d.attrs.Xdp == nil || !d.attrs.Xdp.Attached {
			return fmt.Errorf("%s interface %s lost its xdp program while it was opened", d.port, d.name)
		}
		if d.attrs.Xdp.AttachMode == attachedGeneric {
			p.XDPMode = Generic
		}
		for _, w := range l.sockets {
			m := w.Mode(packet.Port(port))
			p.ZeroCopy += int(flag(m.ZeroCopy))
			p.NeedWakeup += int(flag(m.NeedWakeup))
			p.SharedUMEM += int(flag(m.SharedUMEM))
			p.TXBudget = m.TXBudget
		}
		if f, err := l.host.xdpFeatures(d.index); err == nil && c.FailMode == FailOpen && p.XDPMode == Native && f&featureXmit == 0 {
			note := "fail mode open cannot send out of it: its driver takes no redirected frames now"
			if d.driver == "veth" {
				note += " (turn GRO on at the other end of the veth pair)"
			}
			p.Notes = append(p.Notes, note)
		}
	}
	// The socket that registered a UMEM shares it as well, if anybody does.
	first := &l.report.Port[packet.Inside]
	if first.SharedUMEM > 0 || l.report.Port[packet.Outside].SharedUMEM == len(l.wires) {
		first.SharedUMEM++
	}
	if p := &l.report.Port[packet.Outside]; p.SharedUMEM > 0 && p.SharedUMEM < len(l.wires) {
		p.SharedUMEM++
	}
	return nil
}

// Report returns what the link really got when it was opened, and the ports' present carrier.
func (l *Link) Report() Report {
	r := l.report
	for port := range r.Port {
		r.Port[port].Up = l.Up(packet.Port(port))
	}
	return r
}
