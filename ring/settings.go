package ring

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"corewire/internal/packet"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Setting is a property of an interface that was changed for the wire, and what it was before.
type Setting struct {
	Name string `json:"name"` // one of the names below, or of an ethtool feature as `ethtool -k` with kernel names has it
	Was  string `json:"was"`  // original value, restored by Close and Release
	Now  string `json:"now"`  // the wire's value
}

// Names of settings that are not ethtool features.
const (
	setChannels  = "channels"       // number of queues, as ethtool -L: "4"
	setAddresses = "ipv6-addresses" // that switching IPv6 off removes, "a/64,b/64"
	setIPv6      = "ipv6"           // not disable_ipv6
	setPromisc   = "promisc"        // the persistent flag, so that it outlives the process as the fail mode does
	setUp        = "up"             // administratively
)

const (
	on  = "on"
	off = "off"
)

// offloads are the ethtool features that must be off, because with them the program or the socket gets something else
// than the frame on the wire. Names from netdev_features_strings (net/ethtool/common.c).
var offloads = [...]string{
	"rx-gro",                // merges segments before generic XDP
	"rx-gro-hw",             // the same in the NIC
	"rx-lro",                // irreversibly
	"rx-vlan-hw-parse",      // takes the VLAN tag out of the frame
	"rx-vlan-stag-hw-parse", // and the service tag
	"rx-vlan-filter",        // drops the VLANs that this host has not joined
}

// want returns the settings of a port, in the order of change; they are restored in the reverse order. IPv6 goes off
// before the interface goes up, and promiscuous mode is on when it does: so the host says nothing and hears all.
func want(channels int) []Setting {
	var s []Setting
	if channels > 0 {
		s = append(s, Setting{Name: setChannels, Now: fmt.Sprint(channels)})
	}
	for _, f := range offloads {
		s = append(s, Setting{Name: f, Now: off})
	}
	return append(s, Setting{Name: setAddresses, Now: ""}, Setting{Name: setIPv6, Now: off}, Setting{Name: setPromisc, Now: on}, Setting{Name: setUp, Now: on})
}

// errFixed says that the interface does not let a setting be changed, or does not have it.
var errFixed = errors.New("cannot be changed on this interface")

// get returns the value of a setting. errFixed: there is no such setting.
func (h *host) get(d *device, name string) (string, error) {
	switch name {
	case setChannels:
		c, err := h.eth.GetChannels(d.name)
		if err != nil {
			return "", errors.Join(errFixed, err)
		}
		return fmt.Sprint(c.CombinedCount + c.RxCount), nil
	case setAddresses:
		addrs, err := h.addresses(d, netlink.FAMILY_V6)
		return strings.Join(addrs, ","), err
	case setIPv6:
		var b []byte
		err := h.inside(func() (err error) { b, err = os.ReadFile(ipv6Switch(d)); return err })
		if errors.Is(err, os.ErrNotExist) {
			return off, nil // kernel without IPv6, or a module that is not loaded
		}
		return onOff(strings.HasPrefix(string(b), "0")), err
	case setPromisc:
		return onOff(d.attrs.RawFlags&unix.IFF_PROMISC != 0), nil
	case setUp:
		return onOff(d.attrs.Flags&net.FlagUp != 0), nil
	}
	state, err := h.eth.FeaturesWithState(d.name)
	if err != nil {
		return "", errors.Join(errFixed, err)
	}
	f, ok := state[name]
	if !ok {
		return "", errFixed
	}
	return onOff(f.Active), nil
}

// set changes a setting. errFixed: the interface does not let it. d must be fresh, and is no more afterwards.
func (h *host) set(d *device, name, value string) error {
	l := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: d.index, Name: d.name}}
	switch name {
	case setChannels:
		return h.setChannels(d, value)
	case setAddresses:
		return h.addAddresses(l, value)
	case setIPv6:
		disable := map[string]string{on: "0\n", off: "1\n"}[value]
		return h.inside(func() error { return os.WriteFile(ipv6Switch(d), []byte(disable), 0o644) })
	case setPromisc:
		if value == on {
			return h.nl.SetPromiscOn(l)
		}
		return h.nl.SetPromiscOff(l)
	case setUp:
		if value == on {
			return h.nl.LinkSetUp(l)
		}
		return h.nl.LinkSetDown(l)
	}
	state, err := h.eth.FeaturesWithState(d.name)
	if err != nil {
		return errors.Join(errFixed, err)
	}
	if f, ok := state[name]; !ok || !f.Available || f.NeverChanged {
		return errFixed
	}
	return h.eth.Change(d.name, map[string]bool{name: value == on})
}

func onOff(b bool) string {
	if b {
		return on
	}
	return off
}

// setChannels sets the number of queues: combined ones, where the driver has them, else receive and transmit alike.
func (h *host) setChannels(d *device, value string) error {
	var n uint32
	if _, err := fmt.Sscan(value, &n); err != nil {
		return fmt.Errorf("number of queues %q: %w", value, err)
	}
	c, err := h.eth.GetChannels(d.name)
	if err != nil {
		return errors.Join(errFixed, err)
	}
	most := c.MaxCombined
	if most == 0 {
		most = min(c.MaxRx, c.MaxTx)
	}
	if n > most {
		return fmt.Errorf("%w: it has at most %d queues", errFixed, most)
	}
	if c.MaxCombined > 0 {
		_, err = h.eth.SetChannels(d.name, ethtool.Channels{CombinedCount: n})
	} else {
		_, err = h.eth.SetChannels(d.name, ethtool.Channels{RxCount: n, TxCount: n})
	}
	return err
}

// addresses returns the interface's addresses of a family that somebody gave it: not the link-local and not the
// temporary ones, which the kernel makes itself.
func (h *host) addresses(d *device, family int) ([]string, error) {
	addrs, err := h.nl.AddrList(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: d.index}}, family)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var s []string
	for _, a := range addrs {
		if !a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TEMPORARY == 0 {
			s = append(s, a.IPNet.String())
		}
	}
	return s, nil
}

// addAddresses gives the interface addresses back.
func (h *host) addAddresses(l netlink.Link, list string) error {
	var errs []error
	for _, s := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
		a, err := netlink.ParseAddr(s)
		if err == nil {
			err = h.nl.AddrAdd(l, a)
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("add address %s: %w", s, err))
		}
	}
	return errors.Join(errs...)
}

// ipv6Switch is the file that switches IPv6 off at an interface.
func ipv6Switch(d *device) string { return "/proc/sys/net/ipv6/conf/" + d.name + "/disable_ipv6" }

// plan returns what must be recorded before the first change: every setting that has not the wire's value yet, with its
// present value, and those of a former process, whose originals stay the originals.
func (h *host) plan(d *device, channels int, former []Setting) (plan []Setting, notes []string, err error) {
	was := make(map[string]Setting)
	for _, s := range former {
		was[s.Name] = s
	}
	for _, s := range want(channels) {
		if o, ok := was[s.Name]; ok {
			s.Was = o.Was
			plan = append(plan, s)
			continue
		}
		s.Was, err = h.get(d, s.Name)
		switch {
		case errors.Is(err, errFixed):
			if s.Name == setChannels {
				return nil, nil, fmt.Errorf("set %s of %s interface %s to %s: %w", s.Name, d.port, d.name, s.Now, err)
			}
		case err != nil:
			return nil, nil, fmt.Errorf("read %s of %s interface %s: %w", s.Name, d.port, d.name, err)
		case s.Was != s.Now:
			plan = append(plan, s)
		}
	}
	if o, ok := was[setChannels]; ok && channels == 0 {
		if v, err := h.get(d, setChannels); err == nil && v == o.Now {
			plan = append([]Setting{o}, plan...) // still as the former process set it
		}
	}
	v4, err := h.addresses(d, netlink.FAMILY_V4)
	if err != nil {
		return nil, nil, fmt.Errorf("%s interface %s: %w", d.port, d.name, err)
	}
	if len(v4) > 0 {
		notes = append(notes, "cannot be reached at "+strings.Join(v4, ", ")+" while the wire runs: every frame goes through it")
	}
	above, err := h.above(d)
	if err != nil {
		return nil, nil, fmt.Errorf("%s interface %s: %w", d.port, d.name, err)
	}
	if len(above) > 0 {
		notes = append(notes, "gives no frames to "+strings.Join(above, ", ")+" on top of it while the wire runs")
	}
	return plan, notes, nil
}

// above returns the interfaces that live on d's frames: VLANs and the like.
func (h *host) above(d *device) ([]string, error) {
	links, err := h.nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var names []string
	for _, l := range links {
		switch l.Type() {
		case "vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec":
			if l.Attrs().ParentIndex == d.index {
				names = append(names, l.Attrs().Name)
			}
		}
	}
	return names, nil
}

// apply makes the planned changes. What the interface does not let be changed is left out of done and told in notes.
// On error, done is what has been changed, to be given to restore.
func (h *host) apply(d *device, plan []Setting) (done []Setting, notes []string, err error) {
	for _, s := range plan {
		fail := func(err error) error {
			return fmt.Errorf("set %s of %s interface %s to %s: %w", s.Name, d.port, d.name, s.Now, err)
		}
		if ok, err := h.refresh(d); err != nil || !ok {
			return done, notes, fail(errors.Join(err, unix.ENODEV))
		}
		if v, err := h.get(d, s.Name); err == nil && v == s.Now {
			done = append(done, s) // a former process did it
			continue
		}
		if s.Name == setAddresses {
			done = append(done, s) // goes with IPv6
			notes = append(notes, "loses the addresses "+s.Was+", and the routes through them, while the wire runs")
			continue
		}
		err := h.set(d, s.Name, s.Now)
		if err == nil && (s.Name == setIPv6 || strings.HasPrefix(s.Name, "rx-")) {
			if v, e := h.get(d, s.Name); e != nil || v != s.Now {
				err = errors.Join(errFixed, e) // the driver took it and did nothing
			}
		}
		switch {
		case err == nil:
			done = append(done, s)
		case s.Name == setUp || s.Name == setPromisc || s.Name == setChannels:
			return done, notes, fail(err)
		default:
			notes = append(notes, fmt.Sprintf("%s stays %s: %v", s.Name, s.Was, err))
		}
	}
	_, err = h.refresh(d)
	h.queues(d)
	return done, notes, err
}

// restore takes changes back, the last one first. A setting that somebody else has changed meanwhile, and an interface
// that is gone, are left alone.
func (h *host) restore(d *device, done []Setting) error {
	var errs []error
	for i := len(done) - 1; i >= 0; i-- {
		s := done[i]
		ok, err := h.refresh(d)
		if err == nil && !ok {
			return errors.Join(errs...)
		}
		if err == nil && s.Name != setAddresses {
			var v string
			if v, err = h.get(d, s.Name); err == nil && v != s.Now {
				continue
			}
		}
		if err == nil {
			err = h.set(d, s.Name, s.Was)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("restore %s of %s interface %s to %s: %w", s.Name, d.port, d.name, s.Was, err))
		}
	}
	return errors.Join(errs...)
}

// device makes a device of what a record says about a port.
func (r *recordPort) device(port packet.Port) *device {
	return &device{port: port, name: r.Name, index: r.Index}
}
