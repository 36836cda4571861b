package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"corewire/tools/lab"
)

// ICMP types of echo request and reply: RFC 792 and RFC 4443 section 4.
const (
	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
)

// ping sends count echo requests with size bytes of data, one after the other, and returns how many replies
// came back intact within timeout each, and the shortest and longest round trip.
func ping(ctx context.Context, l *lab.Lab, from lab.Where, to netip.Addr, count, size int, timeout time.Duration) (replies int, least, most time.Duration, err error) {
	network, request, reply := "ip4:icmp", byte(echoRequest4), byte(echoReply4)
	family := 4
	if to.Is6() {
		network, request, reply, family = "ip6:ipv6-icmp", echoRequest6, echoReply6, 6
	}
	conn, err := l.ListenPacket(ctx, from, network, l.Addr(from, family).String())
	if err != nil {
		return 0, 0, 0, fmt.Errorf("open ICMP socket: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })()
	id := uint16(os.Getpid())
	buffer := make([]byte, 65536)
	for seq := range uint16(count) {
		if ctx.Err() != nil {
			return replies, least, most, ctx.Err()
		}
		sent := time.Now()
		if _, err := conn.WriteTo(echo(request, id, seq, size), &net.IPAddr{IP: to.AsSlice()}); err != nil {
			return replies, least, most, fmt.Errorf("send echo request: %w", err)
		}
		conn.SetReadDeadline(sent.Add(timeout))
		want := echo(reply, id, seq, size)
		for {
			n, _, err := conn.ReadFrom(buffer)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return replies, least, most, fmt.Errorf("receive echo reply: %w", err)
			}
			// The checksum (bytes 2 and 3) was verified by the kernel for IPv6 and is compared for IPv4.
			if n == len(want) && buffer[0] == reply && string(buffer[4:n]) == string(want[4:]) &&
				(to.Is6() || string(buffer[2:4]) == string(want[2:4])) {
				took := time.Since(sent)
				if replies == 0 || took < least {
					least = took
				}
				most = max(most, took)
				replies++
				break
			}
		}
	}
	return replies, least, most, nil
}

// echo returns an ICMP or ICMPv6 echo message. The checksum is right for ICMP; for ICMPv6, where it covers the addresses,
// the kernel puts it in (RFC 3542 section 3.1).
func echo(kind byte, id, seq uint16, size int) []byte {
	m := make([]byte, 8+size)
	m[0] = kind
	binary.BigEndian.PutUint16(m[4:], id)
	binary.BigEndian.PutUint16(m[6:], seq)
	for i := range m[8:] {
		m[8+i] = byte(i)
	}
	binary.BigEndian.PutUint16(m[2:], checksum(m))
	return m
}

// checksum is the Internet checksum (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for i, c := range b {
		sum += uint32(c) << (8 * (1 - i&1))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
