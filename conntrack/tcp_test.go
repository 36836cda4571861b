package conntrack

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// A script is played line by line against a Table with a clock of its own:
//
//	> S 0 w65535 ws8 sackok => NEW SYN_SENT 120 U
//
// says that the client sends a SYN with sequence number 0, window 65535, window scale 8 and SACK permitted; that the
// rules see NEW; and that afterwards the entry is in SYN_SENT with 120 s left and UNREPLIED. "<" is the server. Flags:
// S F R P U and "." for ACK. "5+10" is sequence number 5 and ten bytes of payload; a7 acknowledges 7; sack3-9 adds a SACK
// block; ts adds timestamps. After =>: the state, for INVALID the reason in parentheses, the entry's state, the
// seconds left, U for UNREPLIED, A for ASSURED; "gone" when there is no entry. Numbers are relative to initial
// numbers shortly before the wrap.
//
//	wait 30                             turns the clock by seconds
//	set nf_conntrack_tcp_loose 0        changes a setting
type tcpScript struct {
	name string // which rule it shows
	text string
}

const (
	scriptClientISN uint32 = 0xfffff000
	scriptServerISN uint32 = 0x7ffffff0
)

// tcpScripts holds the rules of nf_conntrack_proto_tcp.c one by one.
var tcpScripts = []tcpScript{
	{"handshake, data, close", `
		> S  0 w65535 ws8 sackok => NEW SYN_SENT 120 U
		< S. 0 a1 w65535 ws8 sackok => ESTABLISHED SYN_RECV 60
		> .  1 a1 w1000 => ESTABLISHED ESTABLISHED 432000 A
		> P. 1+100 a1 w1000 => ESTABLISHED ESTABLISHED 300 A
		< .  1 a101 w1000 => ESTABLISHED ESTABLISHED 432000 A
		> F. 101 a1 w1000 => ESTABLISHED FIN_WAIT 120 A
		< .  1 a102 w1000 => ESTABLISHED CLOSE_WAIT 60 A
		< F. 1 a102 w1000 => ESTABLISHED LAST_ACK 30 A
		> .  102 a2 w1000 => ESTABLISHED TIME_WAIT 120 A`},
	{"a repeated SYN does not refresh", `
		> S 0 w65535 => NEW SYN_SENT 120 U
		wait 100
		> S 0 w65535 => NEW SYN_SENT 20 U
		wait 20
		> S 0 w65535 => NEW SYN_SENT 120 U`},
	{"answer to a SYN by RST leaves nothing", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		< R. 0 a1 w0 => ESTABLISHED gone`},
	{"an RST of an unanswered client leaves nothing", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		> R  1 w0 => NEW gone`},
	{"an established connection is closed by an exact RST", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		< S. 0 a1 w65535 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A
		< R  1 w0 => ESTABLISHED CLOSE 10 A`},
	{"illegal flags", `
		> SF 0 => INVALID(tcp-flags) gone
		> -  0 => INVALID(tcp-flags) gone
		> F  0 => INVALID(tcp-flags) gone
		> FPU 0 => INVALID(tcp-flags) gone
		> SR 0 => INVALID(tcp-flags) gone
		> R.U 0 => INVALID(tcp-flags) gone
		> SU 0 w9 => NEW SYN_SENT 120 U`},
	{"what cannot begin a connection", `
		> S. 0 a1 w9 => INVALID(not-new) gone
		> F. 0 a1 w9 => INVALID(not-new) gone
		> R  0 => INVALID(not-new) gone`},
	{"loose pickup, answered", `
		> .  5000 a7000 w100 => NEW ESTABLISHED 300 U
		< .  7000+2000 a5000 w10 => ESTABLISHED ESTABLISHED 300
		> .  5000+3000 a9000 w100 => ESTABLISHED ESTABLISHED 300 A
		< .  9000 a8000 w10 => ESTABLISHED ESTABLISHED 432000 A`},
	{"no pickup with tcp_loose=0", `
		set nf_conntrack_tcp_loose 0
		> .  5000 a7000 w100 => INVALID(not-new) gone`},
	{"states that do not fit", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		> .  1 a1 w65535 => INVALID(state) SYN_SENT 120 U
		> S. 0 a1 w65535 => INVALID(state) SYN_SENT 120 U
		> F. 1 a1 w65535 => INVALID(state) SYN_SENT 120 U
		< F. 1 a1 w65535 => INVALID(state) SYN_SENT 120 U
		< .  77 a99 w65535 => ESTABLISHED SYN_SENT 120`},
	{"condition I: beyond the window", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		< S. 0 a1 w1000 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w1000 => ESTABLISHED ESTABLISHED 432000 A
		> .  1001 a1 w1000 => ESTABLISHED ESTABLISHED 300 A
		> .  3000+500 a1 w1000 => INVALID(seq-over) ESTABLISHED 300 A`},
	{"condition I: somewhat too much passes", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		< S. 0 a1 w1000 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w1000 => ESTABLISHED ESTABLISHED 432000 A
		wait 10
		> .  1002+500 a1 w1000 => ESTABLISHED ESTABLISHED 431990 A
		< .  1 a1502 w1000 => ESTABLISHED ESTABLISHED 432000 A`},
	{"condition II: acknowledged long ago", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		< S. 0 a1 w1000 => ESTABLISHED SYN_RECV 60
		> .  1+1000 a1 w1000 => ESTABLISHED ESTABLISHED 300 A
		< .  1 a1001 w1000 => ESTABLISHED ESTABLISHED 432000 A
		> .  1001+1000 a1 w1000 => ESTABLISHED ESTABLISHED 300 A
		< .  1 a2001 w1000 => ESTABLISHED ESTABLISHED 432000 A
		wait 5
		> .  1+1000 a1 w1000 => ESTABLISHED ESTABLISHED 432000 A
		wait 5
		> .  1+999 a1 w1000 => ESTABLISHED ESTABLISHED 431995 A`},
	{"condition III: acknowledges what was never sent", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		< S. 0 a1 w65535 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A
		< .  1 a2 w65535 => INVALID(ack-over) ESTABLISHED 432000 A`},
	{"condition III counts SACK blocks", `
		> S  0 w65535 sackok => NEW SYN_SENT 120 U
		< S. 0 a1 w65535 sackok => ESTABLISHED SYN_RECV 60
		> .  1+500 a1 w65535 => ESTABLISHED ESTABLISHED 300 A
		< .  1 a1 w65535 sack201-501 => ESTABLISHED ESTABLISHED 300 A
		< .  1 a1 w65535 sack201-502 => INVALID(ack-over) ESTABLISHED 300 A`},
	{"SACK blocks do not count where SACK was not permitted", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		< S. 0 a1 w65535 sackok => ESTABLISHED SYN_RECV 60
		> .  1+500 a1 w65535 => ESTABLISHED ESTABLISHED 300 A
		< .  1 a1 w65535 sack201-502 => ESTABLISHED ESTABLISHED 300 A`},
	{"condition IV: far too old an acknowledgement passes without effect", `
		> S  0 w65535 ws4 => NEW SYN_SENT 120 U
		< S. 0 a1 w65535 ws4 => ESTABLISHED SYN_RECV 60
		> .  1+40000 a1 w4095 => ESTABLISHED ESTABLISHED 300 A
		< .  1 a40001 w4095 => ESTABLISHED ESTABLISHED 432000 A
		> .  40001+30000 a1 w4095 => ESTABLISHED ESTABLISHED 300 A
		< .  1 a70001 w4095 => ESTABLISHED ESTABLISHED 432000 A
		wait 5
		< .  1 a4001 w4095 => ESTABLISHED ESTABLISHED 432000 A
		wait 5
		< .  1 a4000 w4095 => ESTABLISHED ESTABLISHED 431995 A`},
	{"be_liberal accepts windows, not RST", `
		set nf_conntrack_tcp_be_liberal 1
		> S  0 w65535 => NEW SYN_SENT 120 U
		< S. 0 a1 w100 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w1000 => ESTABLISHED ESTABLISHED 432000 A
		> .  30000+500 a1 w1000 => ESTABLISHED ESTABLISHED 432000 A
		< .  1 a5000 w1000 => ESTABLISHED ESTABLISHED 432000 A
		< R  0 w0 => INVALID(rst) ESTABLISHED 432000 A`},
	{"windows scale only when both sides say so", `
		> S  0 w65535 ws8 => NEW SYN_SENT 120 U
		< S. 0 a1 w100 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w10 => ESTABLISHED ESTABLISHED 432000 A
		< .  1 a1 w100 => ESTABLISHED ESTABLISHED 432000 A
		< .  70000 a1 w100 => INVALID(seq-over) ESTABLISHED 432000 A`},
	{"scaled windows", `
		> S  0 w65535 ws8 => NEW SYN_SENT 120 U
		< S. 0 a1 w100 ws0 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w1000 => ESTABLISHED ESTABLISHED 432000 A
		< .  256001 a1 w100 => ESTABLISHED ESTABLISHED 300 A`},
	{"a scale beyond 14 counts as 14", `
		> S  0 w65535 ws200 => NEW SYN_SENT 120 U
		< S. 0 a1 w100 ws0 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w1 => ESTABLISHED ESTABLISHED 432000 A
		< .  16385 a1 w100 => ESTABLISHED ESTABLISHED 300 A
		< .  90000+100 a1 w100 => INVALID(seq-over) ESTABLISHED 300 A`},
	{"too many retransmissions", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		< S. 0 a1 w65535 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A
		set nf_conntrack_tcp_timeout_max_retrans 200
		> .  1 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A
		> .  1 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A
		> .  1 a1 w65535 => ESTABLISHED ESTABLISHED 200 A
		> .  1 a1 w65534 => ESTABLISHED ESTABLISHED 432000 A`},
	{"unanswered data and closed windows shorten", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		< S. 0 a1 w65535 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A
		set nf_conntrack_tcp_timeout_unacknowledged 77
		set nf_conntrack_tcp_timeout_max_retrans 88
		> .  1+5 a1 w65535 => ESTABLISHED ESTABLISHED 77 A
		< .  1 a6 w0 => ESTABLISHED ESTABLISHED 88 A
		> .  6+1 a1 w65535 => ESTABLISHED ESTABLISHED 77 A
		< .  1 a7 w1 => ESTABLISHED ESTABLISHED 432000 A`},
	{"keep-alives", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		< S. 0 a1 w65535 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A
		wait 7200
		> .  0 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A
		< .  1 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A
		wait 7200
		> .  0+1 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A`},
	{"simultaneous open", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		< S  0 w65535 => ESTABLISHED SYN_SENT2 120
		> S. 0 a1 w65535 => ESTABLISHED SYN_RECV 60
		< S. 0 a1 w65535 => ESTABLISHED SYN_RECV 60
		< .  1 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A`},
	{"TIME_WAIT is reopened", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		< S. 0 a1 w65535 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A
		> F. 1 a1 w65535 => ESTABLISHED FIN_WAIT 120 A
		< F. 1 a2 w65535 => ESTABLISHED LAST_ACK 30 A
		> .  2 a2 w65535 => ESTABLISHED TIME_WAIT 120 A
		> S  9000 w65535 => NEW SYN_SENT 120 U`},
	{"TIME_WAIT is reopened by the other side", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		< S. 0 a1 w65535 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A
		> F. 1 a1 w65535 => ESTABLISHED FIN_WAIT 120 A
		< F. 1 a2 w65535 => ESTABLISHED LAST_ACK 30 A
		> .  2 a2 w65535 => ESTABLISHED TIME_WAIT 120 A
		< S  9000 w65535 => NEW SYN_SENT 120 U`},
	{"CLOSE is reopened by the side that reset", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		< S. 0 a1 w65535 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A
		> R  1 w0 => ESTABLISHED CLOSE 10 A
		> S  9000 w65535 => NEW SYN_SENT 120 U`},
	{"CLOSE is not reopened by the side that was reset", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		< S. 0 a1 w65535 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A
		< R  1 w0 => ESTABLISHED CLOSE 10 A
		> S  9000 w65535 => ESTABLISHED CLOSE 10 A
		< S. 500 a9001 w65535 => ESTABLISHED SYN_RECV 60 A
		> .  9001 a501 w65535 => ESTABLISHED ESTABLISHED 432000 A`},
	{"a new handshake inside an old connection", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		< S. 0 a1 w65535 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A
		> S  800000 w100 ws2 sackok => ESTABLISHED ESTABLISHED 432000 A
		< S. 900000 a800001 w100 ws2 sackok => ESTABLISHED SYN_RECV 60 A
		> .  800001 a900001 w100 => ESTABLISHED ESTABLISHED 432000 A
		< .  900001 a800001 w100 => ESTABLISHED ESTABLISHED 432000 A
		< .  900401 a800001 w100 => ESTABLISHED ESTABLISHED 300 A
		< .  905402+10 a800001 w100 => INVALID(seq-over) ESTABLISHED 300 A`},
	{"a SYN/ACK to something else than the ignored SYN", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		< S. 0 a1 w65535 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A
		> S  800000 w100 => ESTABLISHED ESTABLISHED 432000 A
		< S. 900000 a800002 w100 => ESTABLISHED ESTABLISHED 432000 A
		< S. 900000 a800001 w100 => ESTABLISHED ESTABLISHED 432000 A`},
	{"the challenge ACK to a SYN in LAST_ACK", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		< S. 0 a1 w65535 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A
		< F. 1 a1 w65535 => ESTABLISHED FIN_WAIT 120 A
		> F. 1 a2 w65535 => ESTABLISHED LAST_ACK 30 A
		> S  800000 w65535 => ESTABLISHED LAST_ACK 30 A
		< .  2 a1 w65535 => ESTABLISHED LAST_ACK 30 A
		< .  2 a2 w65535 => ESTABLISHED TIME_WAIT 120 A`},
	{"RST before the acknowledged data", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		< S. 0 a1 w65535 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A
		< .  1+500 a1 w65535 => ESTABLISHED ESTABLISHED 300 A
		> .  1 a501 w65535 => ESTABLISHED ESTABLISHED 432000 A
		< R  500 w0 => INVALID(rst) ESTABLISHED 432000 A
		set nf_conntrack_tcp_ignore_invalid_rst 1
		< R  500 w0 => ESTABLISHED ESTABLISHED 10 A
		< R  501 w0 => ESTABLISHED CLOSE 10 A`},
	{"RST within the window, but not exact", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		< S. 0 a1 w65535 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A
		< R  100 w0 => ESTABLISHED ESTABLISHED 10 A
		> .  1 a1 w65535 => ESTABLISHED ESTABLISHED 300 A`},
	{"RST directly behind the sender's own data", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		< S. 0 a1 w65535 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A
		< P. 1+19 a1 w65535 => ESTABLISHED ESTABLISHED 300 A
		< R. 20 a1 w65535 => ESTABLISHED CLOSE 10 A`},
	{"RST while closing is not checked", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		< S. 0 a1 w65535 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A
		> F. 1 a1 w65535 => ESTABLISHED FIN_WAIT 120 A
		< R  123456789 w0 => ESTABLISHED CLOSE 10 A`},
	{"FIN and RST outside of the windows on both sides shorten", `
		> S  0 w65535 => NEW SYN_SENT 120 U
		< S. 0 a1 w100 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w100 => ESTABLISHED ESTABLISHED 432000 A
		> F. 300000 a1 w100 => INVALID(seq-over) ESTABLISHED 432000 A
		> F. 300000 a1 w100 => INVALID(seq-over) ESTABLISHED 432000 A
		< F. 300000 a1 w100 => INVALID(seq-over) ESTABLISHED 300 A`},
	{"a SYN/ACK of an older incarnation", `
		> S  0 w65535 ws8 sackok => NEW SYN_SENT 120 U
		< S. 145824453 a643160523 w240 ws0 => INVALID(ack-over) SYN_SENT 120 U
		wait 1
		> S  0 w65535 ws8 sackok => NEW SYN_SENT 119 U
		< S. 145758918 a1 w250 ws0 => ESTABLISHED SYN_RECV 60
		> .  1 a145758919 w256 => ESTABLISHED ESTABLISHED 432000 A`},
	{"a challenge ACK of an older incarnation", `
		> S  0 w65535 ws8 sackok => NEW SYN_SENT 120 U
		< .  145824453 a643160523 w240 => ESTABLISHED SYN_SENT 120
		> R  c643160523 w0 => ESTABLISHED CLOSE 10
		> S  0 w65535 ws8 sackok => NEW SYN_SENT 120 U
		< S. 0 a1 w250 ws0 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w256 => ESTABLISHED ESTABLISHED 432000 A`},
	{"ports reused: challenge ACK, RST, new SYN", `
		> S  0 w32792 ws7 ts => NEW SYN_SENT 120 U
		< S. 0 a1 w65535 ws8 ts => ESTABLISHED SYN_RECV 60
		> .  1 a1 w257 ts => ESTABLISHED ESTABLISHED 432000 A
		> P. 1+100 a1 w257 ts => ESTABLISHED ESTABLISHED 300 A
		< .  1 a101 w256 ts => ESTABLISHED ESTABLISHED 432000 A
		> S  2000 w32792 ws7 ts => ESTABLISHED ESTABLISHED 432000 A
		< .  1 a101 w256 ts => ESTABLISHED ESTABLISHED 432000 A
		> R. 101 a1 w257 => ESTABLISHED CLOSE 10 A
		> S  2000 w32792 ws0 ts => NEW SYN_SENT 120 U
		< S. 3000 a2001 w65535 ws8 ts => ESTABLISHED SYN_RECV 60`},
	{"out-of-window RSTs change nothing", `
		> S  0 w65535 ws8 sackok ts => NEW SYN_SENT 120 U
		< S. 0 a1 w65535 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A
		< .  1+1000 a1 w65535 => ESTABLISHED ESTABLISHED 300 A
		< .  1001+1000 a1 w65535 => ESTABLISHED ESTABLISHED 300 A
		< .  2001+1000 a1 w65535 => ESTABLISHED ESTABLISHED 300 A
		> .  1 a1001 w65535 => ESTABLISHED ESTABLISHED 300 A
		> .  1 a2001 w65535 => ESTABLISHED ESTABLISHED 300 A
		> .  1 a3001 w65535 => ESTABLISHED ESTABLISHED 432000 A
		< R  0 w0 => INVALID(rst) ESTABLISHED 432000 A
		< R  1000000 w0 => INVALID(seq-over) ESTABLISHED 432000 A
		< R  42 w0 => INVALID(rst) ESTABLISHED 432000 A
		> P. 1+1000 a3001 w65535 => ESTABLISHED ESTABLISHED 300 A
		< .  3001 a1001 w65535 => ESTABLISHED ESTABLISHED 432000 A
		< R. 3000 a1001 w0 => INVALID(rst) ESTABLISHED 432000 A
		< R. 3001 a1001 w0 => ESTABLISHED CLOSE 10 A`},
	{"an inexact RST after a FIN", `
		> S  0 w65535 ws8 sackok => NEW SYN_SENT 120 U
		< S. 0 a1 w65535 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A
		< .  1+3000 a1 w65535 => ESTABLISHED ESTABLISHED 300 A
		> .  1 a3001 w65535 => ESTABLISHED ESTABLISHED 432000 A
		> P. 1+1000 a3001 w65535 => ESTABLISHED ESTABLISHED 300 A
		< F. 3001 a1001 w65535 => ESTABLISHED FIN_WAIT 120 A
		> .  1001 a3002 w65535 => ESTABLISHED CLOSE_WAIT 60 A
		> R. 1001 a3002 w65535 => ESTABLISHED CLOSE 10 A
		< R  2001 w0 => ESTABLISHED CLOSE 10 A`},
	{"data acknowledged long ago is let through, so that it is acknowledged again", `
		> S  0 w32792 => NEW SYN_SENT 120 U
		< S. 0 a1 w65535 => ESTABLISHED SYN_RECV 60
		> .  1 a1 w65535 => ESTABLISHED ESTABLISHED 432000 A
		> P. 1+30000 a1 w257 => ESTABLISHED ESTABLISHED 300 A
		< .  1 a30001 w65535 => ESTABLISHED ESTABLISHED 432000 A
		> P. 30001+30000 a1 w257 => ESTABLISHED ESTABLISHED 300 A
		< .  1 a60001 w65535 => ESTABLISHED ESTABLISHED 432000 A
		> P. 60001+30000 a1 w257 => ESTABLISHED ESTABLISHED 300 A
		< .  1 a90001 w65535 => ESTABLISHED ESTABLISHED 432000 A
		wait 1
		> P. 1+1460 a1 w257 => ESTABLISHED ESTABLISHED 431999 A`},
}

// scriptReasons are the short names of reasons in scripts.
var scriptReasons = map[string]Reason{
	"tcp-flags": ReasonTCPFlags, "not-new": ReasonTCPNotNew, "state": ReasonTCPState, "seq-over": ReasonTCPSeqOver, "ack-over": ReasonTCPAckOver, "rst": ReasonTCPRst,
}

func number(t *testing.T, s string) uint32 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

// scriptSegment reads the left side of a line.
func scriptSegment(t *testing.T, line string) twinSegment {
	t.Helper()
	f := strings.Fields(line)
	g := twinSegment{dir: Original}
	own, peer := scriptClientISN, scriptServerISN
	if f[0] == "<" {
		g.dir, own, peer = Reply, peer, own
	}
	for _, c := range f[1] {
		switch c {
		case 'S':
			g.flags |= tcpSYN
		case 'F':
			g.flags |= tcpFIN
		case 'R':
			g.flags |= tcpRST
		case 'P':
			g.flags |= tcpPSH
		case 'U':
			g.flags |= tcpURG
		case '.':
			g.flags |= tcpACK
		}
	}
	seq, size, _ := strings.Cut(f[2], "+")
	if rest, ok := strings.CutPrefix(seq, "c"); ok {
		g.seq = own + number(t, rest) // what the server acknowledged, in the client's numbers
	} else {
		g.seq = own + number(t, seq)
	}
	if size != "" {
		g.size = number(t, size)
	}
	for _, w := range f[3:] {
		switch {
		case w == "sackok":
			g.options = append(g.options, 4, 2)
		case w == "ts":
			g.options = append(append(g.options, 1, 1), packettest.Timestamps(1, 1)...)
		case strings.HasPrefix(w, "ws"):
			g.options = append(g.options, 3, 3, byte(number(t, w[2:])))
		case strings.HasPrefix(w, "sack"):
			left, right, _ := strings.Cut(w[4:], "-")
			g.options = append(append(g.options, 1, 1), packettest.SACK(peer+number(t, left), peer+number(t, right))...)
		case strings.HasPrefix(w, "w"):
			g.win = uint16(number(t, w[1:]))
		case strings.HasPrefix(w, "a"):
			g.ack = peer + number(t, w[1:])
		default:
			t.Fatalf("%q in %q", w, line)
		}
	}
	for len(g.options)%4 != 0 {
		g.options = append(g.options, 0)
	}
	return g
}

// TestTCPScripts plays the scripts through the table.
func TestTCPScripts(t *testing.T) {
	for _, s := range tcpScripts {
		t.Run(s.name, func(t *testing.T) {
			set := DefaultSettings()
			r := newRig(t, Config{Settings: set})
			for line := range strings.Lines(strings.TrimSpace(s.text)) {
				line = strings.TrimSpace(line)
				if rest, ok := strings.CutPrefix(line, "wait "); ok {
					r.after(Tick(number(t, rest)) * 1000)
					continue
				}
				if rest, ok := strings.CutPrefix(line, "set "); ok {
					name, value, _ := strings.Cut(rest, " ")
					var err error
					if set, err = set.With(name, number(t, value)); err != nil {
						t.Fatal(err)
					}
					r.tab.SetSettings(set)
					continue
				}
				left, want, ok := strings.Cut(line, " => ")
				if !ok {
					t.Fatalf("no => in %q", line)
				}
				c := r.track(scriptSegment(t, left).frame())
				if c.Fresh {
					r.tab.Confirm(&c, r.now)
				}
				got := strings.ToUpper(c.State.String())
				if c.State == StateInvalid {
					for name, why := range scriptReasons {
						if r.tab.Why() == why {
							got += "(" + name + ")"
						}
					}
				}
				var list [2]Info
				if n, _ := r.tab.Dump(0, list[:], r.now); n == 0 {
					got += " gone"
				} else {
					i := &list[0]
					got += fmt.Sprintf(" %s %d", tcpStateNames[i.State], (i.Left+999)/1000)
					if i.Status&StatusSeenReply == 0 {
						got += " U"
					}
					if i.Status&StatusAssured != 0 {
						got += " A"
					}
				}
				if got != want {
					t.Fatalf("%s\n gives %s", line, got)
				}
			}
		})
	}
}

// TestTCPStateSize: the memory of a connection is 48 bytes.
func TestTCPStateSize(t *testing.T) {
	if n := reflect.TypeFor[tcpState]().Size(); n != 48 {
		t.Errorf("tcpState has %d bytes, want 48", n)
	}
}

// TestTCPFlagSets: of the 256 sets of flags exactly those are legal that have one of nine cores and any of PSH, ECE and
// CWR besides.
func TestTCPFlagSets(t *testing.T) {
	cores := map[uint8]uint8{
		tcpSYN: tcpClassSYN, tcpSYN | tcpURG: tcpClassSYN, tcpSYN | tcpACK: tcpClassSYNACK, tcpRST: tcpClassRST, tcpRST | tcpACK: tcpClassRST,
		tcpFIN | tcpACK: tcpClassFIN, tcpFIN | tcpACK | tcpURG: tcpClassFIN, tcpACK: tcpClassACK, tcpACK | tcpURG: tcpClassACK,
	}
	for flags := range 256 {
		p := packet.Packet{Frame: twinSegment{flags: uint8(flags)}.frame()}
		packet.Parse(&p)
		var g tcpSegment
		if !g.read(&p) || g.class != cores[uint8(flags)&^(tcpPSH|0xc0)] {
			t.Errorf("flags %#x: class %d", flags, g.class)
		}
	}
}

// TestTCPAllocations: no segment allocates, whatever happens to it.
func TestTCPAllocations(t *testing.T) {
	set := DefaultSettings()
	var packets []packet.Packet
	for _, s := range tcpScripts {
		for line := range strings.Lines(s.text) {
			if left, _, ok := strings.Cut(line, " => "); ok {
				p := packet.Packet{Frame: scriptSegment(t, left).frame()}
				packet.Parse(&p)
				packets = append(packets, p)
			}
		}
	}
	if n := testing.AllocsPerRun(10, func() {
		var s tcpState
		state, status := tcpNone, uint32(0)
		for i := range packets {
			if state == tcpNone {
				s = tcpState{}
				state = tcpNew(&s, &packets[i], 0, set).state
				continue
			}
			o := tcpPacket(&s, state, Dir(binary.BigEndian.Uint16(packets[i].Frame[34:])&1), status, &packets[i], 0, set)
			status |= o.status | StatusSeenReply
			if state = o.state; o.act == actReopen || o.act == actKill {
				state, status = tcpNone, 0
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkTCPPacket is an acknowledged data segment with timestamps of an established connection.
func BenchmarkTCPPacket(b *testing.B) {
	var s tcpState
	set := DefaultSettings()
	play := func(g twinSegment) packet.Packet {
		p := packet.Packet{Frame: g.frame()}
		packet.Parse(&p)
		return p
	}
	sack := []byte{4, 2, 1, 1}
	syn := play(twinSegment{flags: tcpSYN, win: 65535, options: sack})
	synack := play(twinSegment{dir: Reply, flags: tcpSYN | tcpACK, ack: 1, win: 65535, options: sack})
	data := play(twinSegment{flags: tcpACK, seq: 1, ack: 1, win: 65535, size: 100, options: append([]byte{1, 1}, packettest.Timestamps(1, 1)...)})
	ack := play(twinSegment{dir: Reply, flags: tcpACK, seq: 1, ack: 101, win: 65535, options: append([]byte{1, 1}, packettest.Timestamps(1, 1)...)})
	state := tcpNew(&s, &syn, 0, set).state
	state = tcpPacket(&s, state, Reply, 0, &synack, 0, set).state
	b.ReportAllocs()
	for b.Loop() {
		if s.plain(state, Original, StatusSeenReply|StatusAssured, &data, set) == 0 || s.plain(state, Reply, StatusSeenReply|StatusAssured, &ack, set) == 0 {
			b.Fatal("not a plain segment")
		}
	}
}
