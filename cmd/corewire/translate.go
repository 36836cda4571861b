package main

import (
	"slices"
	"strings"
)

// familiar are the conntrack tool's commands and the verbs that do the same.
var familiar = map[string]string{
	"-L": "list", "--dump": "list", "-G": "get", "--get": "get", "-D": "delete", "--delete": "delete", "-U": "update", "--update": "update",
	"-E": "events", "--event": "events", "-F": "flush", "--flush": "flush", "-C": "count", "--count": "count", "--counter": "count", "-S": "stats", "--stats": "stats",
	"-I": "create", "--create": "create", "-A": "add", "--add": "add", "-R": "load", "--load-file": "load",
}

// optional are options of the conntrack tool whose argument may be missing, and which takes the next word if that begins
// with no dash; here an argument needs an equals sign.
var optional = map[string]string{
	"-n": "--src-nat", "--src-nat": "--src-nat", "-g": "--dst-nat", "--dst-nat": "--dst-nat", "-j": "--any-nat", "--any-nat": "--any-nat", "--label-del": "--label-del",
}

// translate puts a verb where the arguments name it as the conntrack tool does, and gives options their argument. A
// table's name may follow the verb, as there.
func translate(args []string) []string {
	if len(args) > 1 && args[0] == "rules" {
		return translateRules(args)
	}
	if len(args) > 1 && args[0] == "set" {
		return translateSet(args)
	}
	if len(args) < 2 || args[0] != "conntrack" {
		return args
	}
	out := []string{args[0], ""}
	rest := args[1:]
	for len(rest) > 0 && rest[0] != "--" {
		arg := rest[0]
		rest = rest[1:]
		if verb, ok := familiar[arg]; ok && out[1] == "" {
			out[1] = verb
			continue
		}
		if name, ok := optional[arg]; ok {
			if arg = name; len(rest) > 0 && !strings.HasPrefix(rest[0], "-") && tableOf(rest[0]) == "" {
				arg += "=" + rest[0]
				rest = rest[1:]
			}
		}
		out = append(out, arg)
	}
	if out[1] == "" {
		out = slices.Delete(out, 1, 2)
	}
	return append(out, rest...)
}

// tableOf returns the table that a word names, as the conntrack tool takes it: any beginning of the name; "" for none.
func tableOf(word string) string {
	for _, name := range []string{"expect", "conntrack", "dying", "unconfirmed"} {
		if word != "" && strings.HasPrefix(name, word) {
			return name
		}
	}
	return ""
}

// setWords are ipset's commands and options that are spelled otherwise here.
var setWords = map[string]string{
	"-N": "create", "--create": "create", "n": "create", "-A": "add", "--add": "add", "-D": "del", "--del": "del", "-T": "test", "--test": "test",
	"-L": "list", "--list": "list", "-S": "save", "--save": "save", "-R": "restore", "--restore": "restore", "-F": "flush", "--flush": "flush",
	"-X": "destroy", "--destroy": "destroy", "-E": "rename", "--rename": "rename", "-W": "swap", "--swap": "swap",
	"-exist": "--exist", "-name": "--name", "-terse": "--terse", "-sorted": "--sorted", "-output": "--output", "-file": "--file",
}

// translateSet puts ipset's words for commands and options into those of corewire set: what may stand before the command
// comes behind it.
func translateSet(args []string) []string {
	var verb string
	var before, rest []string
	for i, arg := range args[1:] {
		word, ok := setWords[arg]
		if !ok {
			word = arg
		}
		switch {
		case verb != "" && strings.HasPrefix(word, "--") && ok:
			rest = append(rest, word)
		case verb != "":
			rest = append(rest, arg)
		case strings.HasPrefix(word, "-") && !(i > 0 && args[i] == "--control-socket" || i > 0 && args[i] == "--config"):
			before = append(before, word)
		case i > 0 && (args[i] == "--control-socket" || args[i] == "--config"):
			before = append(before, arg)
		default:
			verb = word
		}
	}
	if verb == "" {
		return append([]string{args[0]}, before...)
	}
	return slices.Concat([]string{args[0], verb}, before, rest)
}

// translateRules puts `corewire rules -t mangle -I FORWARD …` into the form of a verb.
func translateRules(args []string) []string {
	for i := 1; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "-t" || arg == "--table" || arg == "--control-socket" || arg == "--config":
			i++
		case !strings.HasPrefix(arg, "-"):
			return args // a verb stands there
		default:
			verb := map[string]string{"--list": "show", "--list-rules": "save"}[arg]
			var more []string
			if rest := strings.TrimLeft(arg[1:], "nvxLS"); rest == "" { // -L, -S, -nvL
				for _, letter := range strings.Split(arg[1:], "") {
					switch letter {
					case "L":
						verb = "show"
					case "S":
						verb = "save"
					default:
						more = append(more, "-"+letter)
					}
				}
			}
			for _, v := range ruleVerbs {
				if arg == "-"+v.letter || arg == "--"+v.name {
					verb = v.name
				}
			}
			if verb != "" {
				return slices.Concat(args[:1], []string{verb}, args[1:i], more, args[i+1:])
			}
		}
	}
	return args
}
