package control

import (
	"strings"

	"corewire/internal/config"
	"corewire/internal/packet"
	"corewire/ring"
)

// interfaces is a ring.Link as a Firewall wants it.
type interfaces struct{ *ring.Link }

// LinkConfig returns what the settings say about the link.
func LinkConfig(c *config.Config) ring.Config {
	return ring.Config{
		Inside: c.Inside, Outside: c.Outside, Workers: c.Workers,
		XDPMode:   pick(c.XDPMode, map[string]ring.XDPMode{"native": ring.Native, "generic": ring.Generic}),
		CopyMode:  pick(c.CopyMode, map[string]ring.CopyMode{"auto": ring.CopyAuto, "copy": ring.CopyOnly, "zerocopy": ring.ZeroCopy}),
		FailMode:  pick(c.FailMode, map[string]ring.FailMode{"closed": ring.FailClosed, "open": ring.FailOpen}),
		Driver:    pick(c.Driver, map[string]ring.Driver{"auto": ring.DriverAuto, "xsk": ring.DriverXSK, "asavie": ring.DriverAsavie}),
		ChunkSize: c.ChunkSize, Chunks: c.Chunks, RingSize: c.RingSize, TXBudget: c.TXBudget, HeartbeatTimeout: c.HeartbeatTimeout,
		PinPath: c.PinPath, StatePath: c.StateFile,
	}
}

// pick returns the value of a choice, which the settings have checked.
func pick[T any](choice string, values map[string]T) T {
	v, ok := values[strings.ToLower(choice)]
	if !ok {
		panic("control: setting has no meaning for " + choice)
	}
	return v
}

// openLink attaches to both interfaces.
func openLink(c *config.Config) (link, error) {
	l, err := ring.Open(LinkConfig(c))
	if err != nil {
		return nil, err
	}
	return interfaces{l}, nil
}

// XDP implements link.
func (l interfaces) XDP() (map[string]map[string]uint64, error) {
	var counters [packet.Ports]ring.Counters
	if err := l.Counters(&counters); err != nil {
		return nil, err
	}
	m := map[string]map[string]uint64{}
	for p := range packet.Port(packet.Ports) {
		c := &counters[p]
		m[p.String()] = map[string]uint64{"to_socket": c.ToSocket, "stale": c.Stale, "no_socket": c.NoSocket, "fail_open": c.FailOpen, "fail_closed": c.FailClosed}
	}
	return m, nil
}

// newWire puts the link's report into the API's form.
func newWire(r ring.Report) Wire {
	w := Wire{Driver: r.Driver.String(), Fallback: r.Fallback, FailMode: r.FailMode.String(), Heartbeat: r.HeartbeatTimeout.Seconds(), ChunkSize: r.ChunkSize,
		PinPath: r.PinPath, StateFile: r.StatePath}
	for p := range packet.Port(packet.Ports) {
		from := &r.Port[p]
		port := Port{Port: p.String(), Interface: from.Interface, Driver: from.Driver, MTU: from.MTU, Queues: from.Queues, XDPMode: from.XDPMode.String(), CopyMode: from.Copy(),
			NeedWakeup: from.NeedWakeup, SharedUMEM: from.SharedUMEM, TXBudget: from.TXBudget, Up: from.Up, TakenOver: from.TakenOver,
			Changed: []string{}, Notes: append([]string{}, from.Notes...)}
		for _, s := range from.Changed {
			port.Changed = append(port.Changed, s.Name+" is "+s.Now+", was "+s.Was)
		}
		w.Ports = append(w.Ports, port)
	}
	return w
}
