package main

import _ "embed"

// The rule file, in the form that iptables-save writes. It holds for IPv4 and IPv6.
//
//go:embed demo.rules
var ruleFile []byte

// Ports of the demo, as the rule file knows them.
const (
	portHTTP   = 80   // allowed from inside
	portTelnet = 23   // forbidden by a rule of its own
	portAdmin  = 8022 // a service on the inside; nothing allows connections from outside
	portEcho   = 9000 // UDP echo, allowed from inside
)

// Comments by which the demo finds the rules that must have counted.
const (
	commentTelnet = "no telnet"
	policyForward = "FORWARD policy"
)
