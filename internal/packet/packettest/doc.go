// Package packettest builds frames for tests: whole Ethernet frames with correct lengths and checksums, and on request
// with wrong ones.
//
//	packettest.NewTCP(packettest.AP("10.0.0.1:40000"), packettest.AP("10.0.0.2:80"), packettest.SYN,
//		packettest.Seq(1), packettest.TCPOptions(packettest.MSS(1460), packettest.WindowScale(7)))
//
// The family is that of the addresses. Every builder takes options; an option that a builder has no use for is without
// effect. Builders panic on arguments that make no frame, such as addresses of two families: that is a mistake in the
// test.
//
// The package computes everything byte by byte and shares no code with internal/packet, so that its frames check that
// package's parser and checksums rather than repeat them.
package packettest
