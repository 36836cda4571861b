package conntrack

import (
	"encoding/binary"
	"testing"
)

// pptpText makes a control message of that type; args are its first words after the header.
func pptpText(kind uint16, args ...uint16) []byte {
	n := 208
	if kind <= pptpLinkInfo && pptpSize[kind] > 0 {
		n = int(pptpSize[kind])
	}
	b := make([]byte, pptpHeader+n)
	binary.BigEndian.PutUint16(b, uint16(len(b)))
	binary.BigEndian.PutUint16(b[2:], 1)
	binary.BigEndian.PutUint32(b[4:], 0x1a2b3c4d)
	binary.BigEndian.PutUint16(b[8:], kind)
	for i, a := range args[:min(len(args), (len(b)-pptpHeader)/2)] {
		binary.BigEndian.PutUint16(b[pptpHeader+2*i:], a)
	}
	return b
}

const pptpOK = 1 << 8 // a result code of 1 and an error code of 0

func TestPPTPMessages(t *testing.T) {
	type step struct {
		dir  Dir
		b    []byte
		want pptpAct
	}
	start := []step{
		{Original, pptpText(pptpStartRequest), pptpNothing},
		{Reply, pptpText(pptpStartReply, 0x100, pptpOK), pptpNothing},
	}
	out := append(start[:2:2],
		step{Original, pptpText(pptpOutRequest, 7), pptpNothing},
		step{Reply, pptpText(pptpOutReply, 9, 7, pptpOK), pptpExpect})
	for name, c := range map[string]struct {
		steps []step
		want  pptpState
	}{
		"outgoing": {append(out[:4:4],
			step{Original, pptpText(pptpLinkInfo, 9), pptpNothing},
			step{Reply, pptpText(pptpOutReply, 9, 7, pptpOK), pptpExpect}, // a retransmission
		), pptpState{pptpConfirmed, pptpCallOutConfirmed, 7, 9}},
		"outgoing, hung up": {append(out[:4:4],
			step{Original, pptpText(pptpClearRequest, 7), pptpNothing},
			step{Reply, pptpText(pptpDisconnect, 9), pptpEnd},
		), pptpState{pptpConfirmed, pptpCallNone, 7, 9}},
		"incoming": {append(start[:2:2],
			step{Reply, pptpText(pptpInRequest, 5), pptpNothing},
			step{Original, pptpText(pptpInReply, 6, 5, pptpOK), pptpNothing},
			step{Reply, pptpText(pptpInConnected, 6), pptpExpect},
		), pptpState{pptpConfirmed, pptpCallInConfirmed, 6, 5}},
		"incoming, refused": {append(start[:2:2],
			step{Reply, pptpText(pptpInRequest, 5), pptpNothing},
			step{Original, pptpText(pptpInReply, 6, 5, 2<<8), pptpNothing},
			step{Reply, pptpText(pptpInConnected, 6), pptpNothing},
		), pptpState{pptpConfirmed, pptpCallNone, 0, 5}},
		"wrong peer": {append(start[:2:2],
			step{Original, pptpText(pptpOutRequest, 7), pptpNothing},
			step{Reply, pptpText(pptpOutReply, 9, 8, pptpOK), pptpNothing},
		), pptpState{pptpConfirmed, pptpCallOutRequested, 7, 0}},
		"busy": {append(start[:2:2],
			step{Original, pptpText(pptpOutRequest, 7), pptpNothing},
			step{Reply, pptpText(pptpOutReply, 9, 7, 4<<8), pptpNothing},
		), pptpState{pptpConfirmed, pptpCallNone, 7, 0}},
		"no session": {[]step{
			{Reply, pptpText(pptpStartReply, 0x100, pptpOK), pptpNothing},
			{Original, pptpText(pptpOutRequest, 7), pptpNothing},
			{Reply, pptpText(pptpOutReply, 9, 7, pptpOK), pptpNothing},
		}, pptpState{}},
		"refused": {[]step{
			{Original, pptpText(pptpStartRequest), pptpNothing},
			{Reply, pptpText(pptpStartReply, 0x100, 4<<8), pptpNothing},
			{Original, pptpText(pptpOutRequest, 7), pptpNothing},
		}, pptpState{session: pptpError}},
		"stopped": {append(out[:4:4],
			step{Original, pptpText(pptpStopRequest, 1<<8), pptpNothing},
			step{Reply, pptpText(pptpStopReply, pptpOK), pptpNothing},
		), pptpState{pptpNone, pptpCallOutConfirmed, 7, 9}},
		"not PPTP": {[]step{
			{Original, []byte("GET / HTTP/1.0\r\n\r\n"), pptpNothing},
			{Original, pptpText(pptpStartRequest)[:100], pptpNothing}, // cut off
			{Original, pptpText(99), pptpNothing},
			{Original, nil, pptpNothing},
		}, pptpState{}},
	} {
		var s pptpState
		for i, m := range c.steps {
			if got := s.message(m.b, m.dir); got != m.want {
				t.Errorf("%s, message %d: %v, want %v", name, i, got, m.want)
			}
		}
		if s != c.want {
			t.Errorf("%s: %+v, want %+v", name, s, c.want)
		}
	}
}

func FuzzPPTP(f *testing.F) {
	for kind := uint16(0); kind <= pptpLinkInfo; kind++ {
		f.Add(pptpText(kind, 7, 9, pptpOK), pptpText(kind, 9, 7, pptpOK), uint8(kind))
	}
	f.Fuzz(func(t *testing.T, a, b []byte, session uint8) {
		s := pptpState{session: session % 5, call: session / 5 % 7}
		s.message(a, Original)
		act := s.message(b, Reply)
		if act == pptpExpect && s.session != pptpConfirmed || s.session > pptpConfirmed || s.call > pptpCallClear {
			t.Fatalf("%+v %v", s, act)
		}
	})
}
