package rules

import (
	"testing"

	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

// FuzzU32: whatever --u32 says, the compiled form and a slow one that follows the words agree about any datagram.
func FuzzU32(f *testing.F) {
	for _, s := range []string{"6&0xff=6,17", "0>>22&0x3c@0>>16=0:1024", "0>>22&0x3c@12>>26&0x3c@0=1:0xffffffff", "12=0x0a000000:0x0a01ffff&&2&0xffff=40:60", "0x28<<31=1", "4@0xffffffff=0", "0>>33=0"} {
		f.Add(s, []byte("\x0a\x0b\x0c\x0d and more"))
	}
	f.Fuzz(func(t *testing.T, text string, payload []byte) {
		if len(payload) > 1400 {
			return
		}
		for _, c := range text {
			if c < ' ' || c > '~' || c == '"' || c == '\\' {
				return
			}
		}
		file, err := Parse("f", []byte("*filter\n-A FORWARD -m u32 --u32 \""+text+"\" -j DROP\nCOMMIT\n"), IPv4)
		if err != nil {
			return
		}
		rs, err := Compile([]*File{file}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		p := packet.Packet{Frame: pt.NewIP(pt.IP("10.0.0.1"), pt.IP("10.0.0.2"), 200, pt.Payload(payload))}
		packet.Parse(&p)
		compare(t, rs.NewMatcher(), newLinear([]*File{file}, IPv4, Options{}), &p, &Context{State: New})
	})
}
