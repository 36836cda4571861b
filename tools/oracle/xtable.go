package main

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"corewire/rules"
)

// Options of getsockopt: IPT_SO_GET_INFO and IPT_SO_GET_ENTRIES, the same for IPv6.
const (
	xtGetInfo    = 64
	xtGetEntries = 65
)

// xtable is a table of ip_tables or ip6_tables as it is loaded: its rules in order, and their counters, which are those
// that iptables-save -c prints. Reading them takes some microseconds, so that they can be compared after every frame.
type xtable struct {
	name  string
	fd    int
	level int
	room  []byte // struct ipt_get_entries
	rules []xrule
}

// xrule is one entry of a table that counts for what iptables-save prints: a rule, or the policy of a base chain.
type xrule struct {
	chain  string
	number int // from 1; 0: the policy
	at     int // where its counters are in room
}

// hookNames are the base chains by hook number (enum nf_inet_hooks).
var hookNames = [xtHooks]string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}

// openXtable reads the structure of a table of the network namespace that the calling thread is in. Its counters can be
// read from any thread until close. The table must not change.
func openXtable(name string, v6 bool) (_ *xtable, err error) {
	t := &xtable{name: name, level: unix.SOL_IP}
	family, head, targetAt, counterAt := unix.AF_INET, 112, 88, 96
	if v6 {
		family, t.level = unix.AF_INET6, unix.SOL_IPV6
		head, targetAt, counterAt = 168, 140, 152
	}
	if t.fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
		return nil, fmt.Errorf("open a raw socket: %w (root is needed)", err)
	}
	defer func() {
		if err != nil {
			unix.Close(t.fd)
		}
	}()
	var info xtInfo
	copy(info.name[:], name)
	if err := getsockopt(t.fd, t.level, xtGetInfo, infoBytes(&info)); err != nil {
		return nil, fmt.Errorf("read the kernel's table %s: %w", name, err)
	}
	t.room = make([]byte, xtEntriesAt+int(info.size))
	copy(t.room, name)
	binary.NativeEndian.PutUint32(t.room[xtNameLength:], info.size)
	if err := t.read(); err != nil {
		return nil, err
	}
	chain, number := "", 0
	for at := 0; at < int(info.size); {
		e := t.room[xtEntriesAt+at:]
		if len(e) < head {
			return nil, fmt.Errorf("read the kernel's table %s: entry cut off at %d", name, at)
		}
		target := int(binary.NativeEndian.Uint16(e[targetAt:]))
		next := int(binary.NativeEndian.Uint16(e[targetAt+2:]))
		if target < head || next < target+xtTargetSize || next > len(e) {
			return nil, fmt.Errorf("read the kernel's table %s: bad entry at %d", name, at)
		}
		policy := false
		for h := range xtHooks {
			if info.validHooks>>h&1 == 0 {
				continue
			}
			if int(info.hookEntry[h]) == at {
				chain, number = hookNames[h], 0
			}
			policy = policy || int(info.underflow[h]) == at
		}
		counter := xtEntriesAt + at + counterAt
		switch word := cstring(e[target+2 : target+31]); {
		case word == "ERROR": // the head of a user chain, which it names, or the end of the table
			if len(t.rules) > 0 && t.rules[len(t.rules)-1].number > 0 {
				t.rules = t.rules[:len(t.rules)-1] // the last entry of a user chain is its return to the caller, which is no rule
			}
			chain, number = cstring(e[target+xtTargetSize:next]), 0
		case policy:
			t.rules = append(t.rules, xrule{chain, 0, counter})
		default:
			number++
			t.rules = append(t.rules, xrule{chain, number, counter})
		}
		at += next
	}
	return t, nil
}

// read takes the counters over into room.
func (t *xtable) read() error {
	if err := getsockopt(t.fd, t.level, xtGetEntries, t.room); err != nil {
		return fmt.Errorf("read the kernel's table %s: %w", t.name, err)
	}
	return nil
}

// counter returns what rule i had counted at the last read.
func (t *xtable) counter(i int) rules.Counter {
	b := t.room[t.rules[i].at:]
	return rules.Counter{Packets: binary.NativeEndian.Uint64(b), Bytes: binary.NativeEndian.Uint64(b[8:])}
}

func (t *xtable) close() error { return unix.Close(t.fd) }

func cstring(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
