package rules

// otherMatches are modules of iptables that are refused, with the reason.
var otherMatches = map[string]string{
	"cpu":      "which worker judges a packet must not matter",
	"devgroup": "the ports have no group; write -i inside or -o outside",
	"l2tp":     "iptables has no such module, so that no rule is known to ask for it; -m u32 sees L2TP's header",
	"osf":      "there are no fingerprints here: what it would answer is not in the rules",
	"rateest":  "there are no rate estimators here; -m hashlimit and -m limit know rates",
	"rpfilter": "a transparent wire has no routes by which to tell where an address belongs; write -s with -i inside or -i outside",
}

// Why targets are refused.
const (
	noTranslation = "a transparent wire does not translate addresses"
	noQueue       = "there is no user-space queue, and a verdict that nobody gives would drop or pass everything"
)

// otherTargets are targets of iptables that are refused, with the reason.
var otherTargets = map[string]string{
	"QUEUE": noQueue, "NFQUEUE": noQueue,
	"DNAT": noTranslation, "SNAT": noTranslation, "MASQUERADE": noTranslation, "REDIRECT": noTranslation, "NETMAP": noTranslation,
	"SNPT": noTranslation, "DNPT": noTranslation,
	"CLASSIFY":  "there are no traffic classes here",
	"TPROXY":    "there are no local sockets here",
	"SYNPROXY":  "the wire does not answer SYNs in a server's name",
	"CLUSTERIP": "a wire has no address to share with other nodes; -m cluster is known",
}
