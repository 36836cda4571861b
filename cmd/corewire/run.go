package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"corewire/dataplane"
	"corewire/internal/config"
	"corewire/internal/control"
)

func newRun() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run --inside IF --outside IF --rules FILE",
		Short: "Be the firewall between two interfaces",
		Long: `Be the firewall between two interfaces until SIGINT or SIGTERM. It says on start what it
really got: XDP native or generic, copy or zero copy, queues, need_wakeup.

What cannot work is refused before anything is changed: a missing interface, the same one
twice, unequal queue counts, another XDP program, missing privileges, a mistake in the rules.
At the end every interface setting that was changed is restored. If the process is killed,
the XDP program stays and holds to the fail mode; the next run takes over.

SIGHUP reads the configuration and rule files again, all or nothing (corewire reload).

Needs CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF, and Linux 5.9. Connection tracking's settings
have flags with Linux's names too (--nf_conntrack_udp_timeout=60): see corewire config docs.`,
		Example: `  corewire run --inside eth1 --outside eth2 --rules /etc/corewire/rules
  corewire run --config /etc/corewire/corewire.yaml --fail-mode open
  COREWIRE_LOG_LEVEL=debug corewire run --config corewire.toml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, warnings, err := settings(cmd)
			if err != nil {
				return err
			}
			if c.Inside == "" || c.Outside == "" {
				return &usageError{errors.New("name both interfaces, with --inside and --outside or in the configuration file (see corewire run --help)")}
			}
			return firewall(cmd.Context(), c, warnings, func() (*config.Config, error) {
				c, _, err := config.Load(configPath(cmd), cmd.Flags())
				return c, err
			}, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	config.AddFlags(cmd.Flags(), nil)
	return cmd
}

// newLogger makes the logger that the settings ask for; level can be changed afterwards.
func newLogger(w io.Writer, c *config.Config) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	setLevel(level, c)
	options := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options)), level
	}
	return slog.New(slog.NewTextHandler(w, options)), level
}

// setLevel follows the setting log-level, whose values are slog's.
func setLevel(level *slog.LevelVar, c *config.Config) {
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		panic("corewire: log level " + c.LogLevel + " is in the table of settings and no level")
	}
}

// firewall runs until a signal, ctx's end, or a failure.
func firewall(ctx context.Context, c *config.Config, warnings []string, load func() (*config.Config, error), stdout, stderr io.Writer) (err error) {
	log, level := newLogger(stderr, c)
	for _, w := range warnings {
		log.Warn(w)
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)

	server, err := control.Listen(c)
	if err != nil {
		return err
	}
	f, err := control.Open(c, control.Options{
		Version: programVersion(),
		Load:    load,
		Notify: func(e dataplane.Event) {
			if e.Kind == dataplane.EventResumed {
				log.Info(e.String())
				return
			}
			log.Warn(e.String())
		},
		Log:     func(level slog.Level, text string) { log.Log(context.Background(), level, text) },
		Changed: func(c *config.Config) { setLevel(level, c) },
	})
	if err != nil {
		if errors.Is(err, config.ErrNoRules) {
			err = &usageError{err}
		}
		return errors.Join(err, server.Close())
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	status := f.Status()
	if err := announce(stdout, &status, c, server); err != nil {
		return errors.Join(err, server.Close())
	}
	for _, w := range f.Warnings() {
		log.Warn(w)
	}
	// A worker keeps its thread; with fewer processors than threads of Go code the collector would wait for them.
	if n := status.Workers + 1; runtime.GOMAXPROCS(0) < n {
		runtime.GOMAXPROCS(n)
	}

	running, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() {
		served <- server.Serve(running, f)
		cancel() // a firewall that cannot be asked any more ends
	}()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		watch(running, f, hangup, log)
	}()
	log.Info("forwarding", "inside", c.Inside, "outside", c.Outside, "workers", status.Workers, "rules", status.Rules)
	err = f.Run(running)
	if ctx.Err() != nil {
		log.Info("ending")
	}
	cancel()
	stop() // a second signal ends the process at once
	<-watched
	return errors.Join(err, <-served)
}

// announce says what was really got, and where to ask.
func announce(w io.Writer, status *control.Status, c *config.Config, server *control.Server) error {
	if err := printStatus(w, status); err != nil {
		return err
	}
	if c.ControlSocket != "" {
		if _, err := fmt.Fprintf(w, "control  %s\n", c.ControlSocket); err != nil {
			return err
		}
	}
	if a := server.MetricsAddr(); a != nil {
		if _, err := fmt.Fprintf(w, "metrics  http://%s/metrics\n", a); err != nil {
			return err
		}
	}
	return nil
}

// watch reloads on SIGHUP and keeps the service manager informed, until ctx ends.
func watch(ctx context.Context, f *control.Firewall, hangup <-chan os.Signal, log *slog.Logger) {
	manager := control.NewManager()
	tell := func(err error) {
		if err != nil {
			log.Warn(err.Error())
		}
	}
	var alive <-chan time.Time
	if period := manager.Watchdog(); period > 0 {
		t := time.NewTicker(period)
		defer t.Stop()
		alive = t.C
	}
	tell(manager.Ready("forwarding"))
	defer func() { tell(manager.Stopping()) }()
	var reloading sync.WaitGroup
	defer reloading.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-alive:
			// Only while every worker answers: what hangs is restarted.
			asked, cancel := context.WithTimeout(ctx, manager.Watchdog())
			if err := f.Healthy(asked); err == nil {
				tell(manager.Alive())
			} else if ctx.Err() == nil {
				log.Warn("not healthy: the service manager is not told that all is well", "error", err)
			}
			cancel()
		case <-hangup:
			// Beside this loop: judging connections again takes its time, and all is well meanwhile.
			reloading.Go(func() { reload(ctx, f, log) })
		}
	}
}

// reload reads settings and rules again, and logs what came of it.
func reload(ctx context.Context, f *control.Firewall, log *slog.Logger) {
	r, err := f.Reload(ctx, control.ReloadOptions{})
	if err != nil {
		log.Error("reload refused", "error", err)
		return
	}
	for _, w := range r.Warnings {
		log.Warn(w)
	}
	for _, change := range r.Changes {
		log.Info("setting changed", "name", change.Name, "from", change.From, "to", change.To)
	}
	if r.Discarded > 0 {
		log.Warn("changes of single rules are gone, since they are not in the files", "changes", r.Discarded)
	}
	if j := r.Rejudged; j != nil {
		log.Info("connections judged again", "judged", j.Judged, "closed", j.Closed, "ended", j.Ended)
	}
	log.Info("reloaded", "rules", r.Rules)
}
