// Package rulestest makes rule sets in iptables-save form and packets for tests, at random from a seed. Both take their
// values from the same small pools, so that packets meet rules and what is next to them.
//
// Two kinds of test use it: the rules package compares its compiled form with a linear twin, and tools/oracle compares
// the whole firewall with the running kernel. What only one of them can judge is told apart by Side.
package rulestest
