package main

import (
	"errors"
	"io"
	"net/netip"
	"time"

	"corewire/internal/packet"
	"corewire/internal/replay"
	"corewire/ring"
)

// readCapture returns the frames of a capture. With inside networks a frame's port follows from them; without, of each
// pair of addresses the one that was first seen as a source is inside.
//
// A file that is damaged further on gives its frames up to there.
func readCapture(name string, inside []netip.Prefix) ([]shot, error) {
	port := newPairs().port
	if len(inside) > 0 {
		port = replay.NewSides(inside).Port
	}
	w, err := ring.OpenCapture(ring.CaptureConfig{File: name, Port: port})
	if err != nil {
		return nil, err
	}
	var shots []shot
	var last time.Time
	for {
		c, err := w.Next()
		if err != nil {
			if err != io.EOF && len(shots) == 0 {
				return nil, errors.Join(err, w.Close())
			}
			return shots, w.Close()
		}
		var f [1]packet.Frame
		if w.Receive(c.Port, f[:]) == 0 {
			continue
		}
		s := shot{in: c.Port, frame: append([]byte(nil), f[0].Data...)}
		if len(shots) > 0 {
			s.gap = max(0, c.Time.Sub(last))
		}
		last = c.Time
		shots = append(shots, s)
		w.Release(f[:])
	}
}

// pairs finds ports for the frames of a capture of which nobody knows the sides.
type pairs struct {
	first  map[[2]packet.Addr]packet.Addr // by pair, the lower first: the source of the first packet
	packet packet.Packet
}

func newPairs() *pairs { return &pairs{first: map[[2]packet.Addr]packet.Addr{}} }

func (s *pairs) port(frame []byte) packet.Port {
	p := &s.packet
	p.Frame = frame
	packet.Parse(p)
	if p.Class > packet.ClassIPv6 || p.Problem.Header() {
		return packet.Inside
	}
	pair := [2]packet.Addr{p.Src, p.Dst}
	if p.Dst.Hi < p.Src.Hi || p.Dst.Hi == p.Src.Hi && p.Dst.Lo < p.Src.Lo {
		pair = [2]packet.Addr{p.Dst, p.Src}
	}
	first, ok := s.first[pair]
	if !ok {
		s.first[pair] = p.Src
		first = p.Src
	}
	if first == p.Src {
		return packet.Inside
	}
	return packet.Outside
}
