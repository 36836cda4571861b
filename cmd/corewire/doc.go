// Command corewire is a transparent stateful firewall between two network ports, and the tool to ask and steer it.
//
// # What of conntrack(8) works here
//
// `corewire conntrack` takes what the conntrack tool (1.4.7) takes: its commands, its tables, its options, and its exit
// statuses 0, 1 and 2. This is all of it. "yes" is carried out; "none" is accepted, and answers what is true of a wire:
// that there is no such thing; "no" is refused, with exit status 2 and the reason. The third column is an example; a test
// runs each. Where the tool wants an option after -p, or with one command only, the order does not matter here, and all
// filters go with all commands that select connections.
//
//	-L, --dump                           yes   -L -p tcp                      list
//	-G, --get                            yes   -G -p tcp -s 192.0.2.9 -d 192.0.2.8   get; the tool wants the ports as well
//	-D, --delete                         yes   -D -s 192.0.2.9                delete; without a filter all
//	-I, --create                         yes   -I -p udp -s 192.0.2.9 -d 192.0.2.8 --sport 7 --dport 9 -t 60   create
//	-I expect, --create expect           no    -I expect -p tcp -s 192.0.2.9 -d 192.0.2.8   only a helper that reads the connection expects another; import brings those of another firewall
//	-A, --add                            yes   -A -p udp -s 192.0.2.9 -d 192.0.2.8 --sport 7 --dport 9 -t 60   add; one that is there stays as it is, where the tool changes it
//	-U, --update                         yes   -U -p udp -s 192.0.2.9 -m 5    update
//	-E, --event                          yes   -E -p tcp                      events
//	-F, --flush                          yes   -F expect                      flush
//	-C, --count, --counter               yes   -C                             count
//	-S, --stats                          yes   -S                             stats; a line for each worker, where the tool has one for each processor
//	-R, --load-file                      yes   -R /dev/null                   load; -A, -I, -U, -D and -F, all read before the first is carried out
//	-V, --version                        no    -V                             corewire version
//	-h, --help                           yes   -L -h                          of each verb
//	conntrack                            yes   -L conntrack                   the default table; a name may be shortened, as there
//	expect                               yes   -L expect                      with -L, -G, -D, -E, -F, -C and -S
//	dying                                none  -L dying                       a connection leaves the table at once
//	unconfirmed                          none  -L unconfirmed                 between two bursts of frames there are none
//	-s, --src, --orig-src                yes   -L -s 10.0.0.0/8               of the expected connection with expect
//	-d, --dst, --orig-dst                yes   -L -d fd00::1
//	-r, --reply-src                      yes   -L -r 10.0.0.0/8               networks as well
//	-q, --reply-dst                      yes   -L -q 10.0.0.1
//	-p, --proto, --protonum              yes   -L -p sctp
//	-f, --family                         yes   -L -f ipv6                     without it both families
//	-t, --timeout                        yes   -U -p udp -s 192.0.2.9 -t 60   with -I, -A and -U
//	-m, --mark                           yes   -L -m 0x10/0xff
//	-l, --label                          yes   -L -l 3,4 -l 5
//	--label-add                          yes   -U -p udp -s 192.0.2.9 --label-add 3
//	--label-del                          yes   -U -p udp -s 192.0.2.9 --label-del
//	-c, --secmark                        no    -L -c 5                        connections on a wire have no SELinux context
//	-u, --status                         yes   -L -u ASSURED,SEEN_REPLY       with -U, -I and -A it sets ASSURED, SEEN_REPLY, FIXED_TIMEOUT; OFFLOAD selects nothing
//	-n, --src-nat                        none  -L -n                          a wire translates nothing
//	-g, --dst-nat                        none  -L -g 10.0.0.1
//	-j, --any-nat                        none  -L -j
//	-I -n, -I -g                         no    -I -p udp -s 192.0.2.9 -d 192.0.2.8 --sport 7 --dport 9 -t 60 -n 1.2.3.4   a wire translates nothing
//	-w, --zone                           yes   -L -w 7
//	--orig-zone                          yes   -L --orig-zone 7               both directions have the same zone here
//	--reply-zone                         yes   -L --reply-zone 7
//	-z, --zero                           yes   -L -z -p sctp                  with filters as well, which the tool refuses
//	-o, --output                         yes   -L -o extended,id,labels       also list, proc and json; userspace changes nothing: no process is the cause of an event
//	-o save                              yes   -L -o save                     with no other; it has neither mark nor labels, as there: export has
//	-e, --event-mask                     yes   -E -e NEW,DESTROY
//	-b, --buffer-size                    yes   -E -b 1000000                  of memory here, not of a socket
//	-i, --id                             yes   -L -i 5                        which the manual no longer mentions
//	--tuple-src                          yes   -L expect --tuple-src 10.0.0.1   the same as --src
//	--tuple-dst                          yes   -D expect --tuple-dst 10.0.0.1
//	--mask-src                           yes   -L -s 10.0.0.0 --mask-src 255.0.0.0   masks that are a prefix
//	--mask-dst                           yes   -L -d fd00:: --mask-dst ffff::
//	--sport, --orig-port-src             yes   -L -p tcp --sport 80
//	--dport, --orig-port-dst             yes   -L -p udp --orig-port-dst 53
//	--reply-port-src                     yes   -L -p tcp --reply-port-src 80
//	--reply-port-dst                     yes   -L -p udplite --reply-port-dst 80
//	--tuple-port-src                     yes   -L expect --tuple-port-src 5   the same as --sport
//	--tuple-port-dst                     yes   -L expect --tuple-port-dst 5
//	--mask-port-src, --mask-port-dst     no    -I expect --mask-port-src 5    for -I expect only
//	--state                              yes   -L -p tcp --state LISTEN       with -U it sets the state, as there
//	--icmp-type, --icmpv6-type           yes   -L -p icmp --icmp-type 8
//	--icmp-code, --icmpv6-code           yes   -L -p icmpv6 --icmpv6-code 0
//	--icmp-id, --icmpv6-id               yes   -L -p icmp --icmp-id 5
//	--orig-vtag                          yes   -L -p sctp --orig-vtag 5
//	--reply-vtag                         yes   -L -p sctp --reply-vtag 5
//	--srckey, --orig-key-src             yes   -L -p gre --srckey 0x5
//	--dstkey, --orig-key-dst             yes   -L -p gre --orig-key-dst 5
//	--reply-key-src                      yes   -L -p gre --reply-key-src 5
//	--reply-key-dst                      yes   -L -p gre --reply-key-dst 5
//	--mask-key-src, --mask-key-dst       no    -I expect --mask-key-src 5     for -I expect only
//	--tuple-key-src, --tuple-key-dst     no    -I expect --tuple-key-src 5    for -I expect only
//	--role                               no    -L -p dccp --role client       of DCCP, which Linux has not tracked since 6.16
//	--nat-range, -a                      no    -L --nat-range 1.2.3.4         which the tool ignores with a warning
package main
