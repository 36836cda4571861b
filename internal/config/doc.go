// Package config holds corewire's settings: one table of rows, from which everything else follows.
//
// # Overview
//
// A [Setting] is a row: name, kind, default, range, unit, when a change takes effect, help. [Table] returns all of
// them. The rows give
//
//   - the command line flags ([AddFlags]),
//   - the environment variables: COREWIRE_ and the name in capitals, "-" written as "_",
//   - the keys of the configuration file, YAML or TOML, flat,
//   - validation, with the place of the mistake ([Problem]),
//   - the listing with the source of every value ([Config.Values]) and
//   - the documentation ([Markdown]).
//
// A value is taken from the first that has one: flag, environment, file, default. The names of connection tracking's
// settings are those of Linux's sysctls (net.netfilter.nf_conntrack_*), and so are their units and defaults; their
// rows come from package conntrack.
//
// # Life cycle
//
// [Load] makes a [Config]; it reports every mistake that it can find, not only the first. A Config is not changed
// after that. [Config.With] makes another one with some settings changed, [Changes] says what differs between two and
// refuses what cannot change while the firewall runs; a caller that gets an error from either has nothing to undo.
//
// # Concurrency
//
// A Config is immutable and may be shared. Load reads the process's environment.
package config
