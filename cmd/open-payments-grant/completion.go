// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"strings"
)

var completionCommand = &command{
	name:      "completion",
	arguments: "bash|zsh|fish",
	summary:   "Print a completion script for a shell.",
	help: `Prints a script that makes a shell complete commands, flags and the names of grants:

  bash  source <(open-payments-grant completion bash)
  zsh   source <(open-payments-grant completion zsh), after compinit
  fish  open-payments-grant completion fish | source
`,
	check: func(args []string, _ *options) error {
		if len(args) != 1 || shells[args[0]] == nil {
			return usageError("takes bash, zsh or fish")
		}
		return nil
	},
	run: func(_ context.Context, a *app, _ options, args []string) error {
		shells[args[0]](a.stdout)
		return nil
	},
}

var shells = map[string]func(io.Writer){"bash": completeBash, "zsh": completeZsh, "fish": completeFish}

const commandNames = "authorize list status completion help"

func (c *command) flagNames() string {
	var names []string
	c.flagSet(&options{}).VisitAll(func(f *flag.Flag) { names = append(names, "-"+f.Name) })
	return strings.Join(append(names, "-help"), " ")
}

func (c *command) takesName() bool { return strings.HasSuffix(c.arguments, "NAME") }

// shellCases returns the part that the scripts for bash and zsh share: for each command, the branch
// of a case statement that sets what may follow it.
func shellCases() string {
	var cases strings.Builder
	for _, c := range grantCommands() {
		fmt.Fprintf(&cases, "    %s) flags='%s'; formats='%s'; named=%t ;;\n",
			c.name, c.flagNames(), strings.Join(c.formats, " "), c.takesName())
	}
	return cases.String()
}

func completeBash(out io.Writer) { fmt.Fprintf(out, bashScript, commandNames, shellCases()) }

func completeZsh(out io.Writer) { fmt.Fprintf(out, zshScript, commandNames, shellCases()) }

func completeFish(out io.Writer) {
	fmt.Fprint(out, fishScript)
	subcommand := func(name, summary string) {
		fmt.Fprintf(out, "complete -c open-payments-grant -n __fish_use_subcommand -a %s -d '%s'\n", name, summary)
	}
	subcommand("completion", "Print a completion script for a shell.")
	for _, c := range grantCommands() {
		subcommand(c.name, c.summary)
	}
	fmt.Fprint(out,
		"complete -c open-payments-grant -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'\n")
	fmt.Fprint(out, "complete -c open-payments-grant -n '__fish_seen_subcommand_from help' "+
		"-a 'authorize list status completion'\n")
	for _, c := range grantCommands() {
		on := fmt.Sprintf("complete -c open-payments-grant -n '__fish_seen_subcommand_from %s'", c.name)
		c.flagSet(&options{}).VisitAll(func(f *flag.Flag) {
			fmt.Fprintf(out, "%s -o %s%s\n", on, f.Name, c.fishValue(f))
		})
		if c.takesName() {
			fmt.Fprintf(out, "%s -a '(__open_payments_grant_names)'\n", on)
		}
	}
}

// fishValue returns the options that tell fish what may follow a flag.
func (c *command) fishValue(f *flag.Flag) string {
	switch kind, _ := flag.UnquoteUsage(f); {
	case f.Name == "format":
		return " -x -a '" + strings.Join(c.formats, " ") + "'"
	case kind == "FILE":
		return " -r -F"
	case kind != "": // empty for boolean flags
		return " -x"
	}
	return ""
}

// bashScript takes the names of the commands, and shellCases.
const bashScript = `# bash completion for open-payments-grant
_open_payments_grant() {
  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" flags formats named list i
  local mount="${OPEN_PAYMENTS_MOUNT:-op}"
  COMPREPLY=()
  # bash splits -format=json at the equals sign.
  if [[ $cur == = ]]; then
    cur=
  elif [[ $prev == = ]]; then
    prev="${COMP_WORDS[COMP_CWORD-2]}"
  fi
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W '%s' -- "$cur"))
    return
  fi
  case "${COMP_WORDS[1]}" in
%s    completion) COMPREPLY=($(compgen -W 'bash zsh fish' -- "$cur")); return ;;
    help) COMPREPLY=($(compgen -W 'authorize list status completion' -- "$cur")); return ;;
    *) return ;;
  esac
  for ((i = 2; i < COMP_CWORD; i++)); do
    if [[ ${COMP_WORDS[i]} == -mount || ${COMP_WORDS[i]} == --mount ]]; then
      mount="${COMP_WORDS[i+1]}"
      [[ $mount == = ]] && mount="${COMP_WORDS[i+2]}"
    fi
  done
  case "$prev" in
    -access | --access) COMPREPLY=($(compgen -f -- "$cur")); return ;;
    -format | --format) COMPREPLY=($(compgen -W "$formats" -- "$cur")); return ;;
    -mount | --mount | -wallet | --wallet | -timeout | --timeout) return ;;
  esac
  list=
  if [[ $cur == -* ]]; then
    list="$flags"
  elif [[ $named == true ]]; then
    list="$(open-payments-grant list -format=names -mount="$mount" 2>/dev/null)"
  fi
  COMPREPLY=($(compgen -W "$list" -- "$cur"))
}
complete -F _open_payments_grant open-payments-grant
`

// zshScript takes the names of the commands, and shellCases.
const zshScript = `#compdef open-payments-grant
_open_payments_grant() {
  local cur="${words[CURRENT]}" prev="${words[CURRENT-1]}" flags formats named i
  local mount="${OPEN_PAYMENTS_MOUNT:-op}"
  if ((CURRENT == 2)); then
    compadd -- %s
    return
  fi
  case "${words[2]}" in
%s    completion) compadd -- bash zsh fish; return ;;
    help) compadd -- authorize list status completion; return ;;
    *) return ;;
  esac
  for ((i = 3; i < CURRENT; i++)); do
    case "${words[i]}" in
      -mount | --mount) mount="${words[i+1]}" ;;
      -mount=* | --mount=*) mount="${words[i]#*=}" ;;
    esac
  done
  case "$cur" in
    -access=* | --access=*) compset -P '*='; _files; return ;;
    -format=* | --format=*) compset -P '*='; compadd -- ${=formats}; return ;;
  esac
  case "$prev" in
    -access | --access) _files; return ;;
    -format | --format) compadd -- ${=formats}; return ;;
    -mount | --mount | -wallet | --wallet | -timeout | --timeout) return ;;
  esac
  if [[ $cur == -* ]]; then
    compadd -- ${=flags}
  elif [[ $named == true ]]; then
    compadd -- ${(f)"$(open-payments-grant list -format=names -mount="$mount" 2>/dev/null)"}
  fi
}
if [[ $funcstack[1] == _open_payments_grant ]]; then
  _open_payments_grant "$@"
else
  compdef _open_payments_grant open-payments-grant
fi
`

const fishScript = `# fish completion for open-payments-grant
function __open_payments_grant_names
  set -l words (commandline -opc)
  set -l mount op
  test -n "$OPEN_PAYMENTS_MOUNT"; and set mount $OPEN_PAYMENTS_MOUNT
  for i in (seq (count $words))
    switch $words[$i]
      case -mount --mount
        test $i -lt (count $words); and set mount $words[(math $i + 1)]
      case '-mount=*' '--mount=*'
        set mount (string replace -r '^--?mount=' '' -- $words[$i])
    end
  end
  open-payments-grant list -format=names -mount=$mount 2>/dev/null
end
complete -c open-payments-grant -f
`
