package main

import (
	"context"
	"fmt"
	"io"

	"corewire/tools/lab"
)

// stay keeps the lab up until ctx ends, with the metrics at an address outside it.
func stay(ctx context.Context, l *lab.Lab, f *firewall, o options, out *report, stdout io.Writer) error {
	address, err := f.proxy(ctx, o.metrics)
	if err != nil {
		return err
	}
	if out.json {
		<-ctx.Done()
		return nil
	}
	socket := "--control-socket " + f.socket
	fmt.Fprintf(stdout, `
The lab stays up until Ctrl-C. Things to try from another terminal, as root:

  connections    %[1]s conntrack list %[2]s
  counters       %[1]s stats %[2]s
  metrics        curl http://%[3]s/metrics
  ping           %[4]s ping -c 3 %[6]v
  download       %[4]s curl -o /dev/null http://%[6]v/file
  IPv6           %[4]s curl -o /dev/null http://[%[7]v]/file
  blocked        %[4]s bash -c 'timeout 2 cat < /dev/tcp/%[6]v/%[8]d'
  a shell at the firewall's ports (%[9]s, %[10]s)
                 %[5]s bash
  crash it       kill -9 %[11]d
`, f.binary, socket, address, l.Enter(lab.Client), l.Enter(lab.Wire), l.Addr(lab.Server, 4), l.Addr(lab.Server, 6), portTelnet,
		lab.InsidePort, lab.OutPort, f.command.Process.Pid)
	select {
	case <-ctx.Done():
	case err := <-f.ended:
		f.command = nil
		fmt.Fprintf(stdout, "\ncorewire has ended (%v); the wire is closed. Ctrl-C removes the lab.\n", err)
		<-ctx.Done()
	}
	return nil
}
