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
	summary:   "Print a script for the shell's completion.",
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

// completable are the commands that the scripts know.
func completable() []*command {
	return []*command{authorizeCommand, listCommand, statusCommand}
}

func (c *command) flagNames() string {
	var names []string
	c.set(&options{}).VisitAll(func(f *flag.Flag) { names = append(names, "-"+f.Name) })
	return strings.Join(append(names, "-help"), " ")
}

func (c *command) takesName() bool { return strings.HasSuffix(c.arguments, "NAME") }

// cases are what bash and zsh have in common: what may follow a command. The
// variables are set by what stands around.
func cases(out io.Writer) {
	for _, c := range completable() {
		fmt.Fprintf(out, "    %s) flags='%s'; formats='%s'; named=%t ;;\n", c.name, c.flagNames(), strings.Join(c.formats, " "), c.takesName())
	}
}

const words = "authorize list status completion help"

func completeBash(out io.Writer) {
	fmt.Fprintf(out, `# bash completion for open-payments-grant
_open_payments_grant() {
  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" mount=op flags formats named list i
  COMPREPLY=()
  # bash takes -format=json apart at the sign.
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
`, words)
	cases(out)
	fmt.Fprint(out, `    completion) COMPREPLY=($(compgen -W 'bash zsh fish' -- "$cur")); return ;;
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
`)
}

func completeZsh(out io.Writer) {
	fmt.Fprintf(out, `#compdef open-payments-grant
_open_payments_grant() {
  local cur="${words[CURRENT]}" prev="${words[CURRENT-1]}" mount=op flags formats named i
  if ((CURRENT == 2)); then
    compadd -- %s
    return
  fi
  case "${words[2]}" in
`, words)
	cases(out)
	fmt.Fprint(out, `    completion) compadd -- bash zsh fish; return ;;
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
`)
}

func completeFish(out io.Writer) {
	fmt.Fprint(out, `# fish completion for open-payments-grant
function __open_payments_grant_names
  set -l words (commandline -opc)
  set -l mount op
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
`)
	fmt.Fprint(out, "complete -c open-payments-grant -n __fish_use_subcommand -a completion -d 'Print a script for the shell.'\n")
	for _, c := range completable() {
		fmt.Fprintf(out, "complete -c open-payments-grant -n __fish_use_subcommand -a %s -d '%s'\n", c.name, c.summary)
	}
	fmt.Fprint(out, "complete -c open-payments-grant -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'\n")
	for _, c := range completable() {
		on := fmt.Sprintf("complete -c open-payments-grant -n '__fish_seen_subcommand_from %s'", c.name)
		c.set(&options{}).VisitAll(func(f *flag.Flag) {
			value := ""
			switch kind, _ := flag.UnquoteUsage(f); {
			case f.Name == "format":
				value = " -x -a '" + strings.Join(c.formats, " ") + "'"
			case kind == "FILE":
				value = " -r -F"
			case kind != "": // flags that are true or false have none
				value = " -x"
			}
			fmt.Fprintf(out, "%s -o %s%s\n", on, f.Name, value)
		})
		if c.takesName() {
			fmt.Fprintf(out, "%s -a '(__open_payments_grant_names)'\n", on)
		}
	}
}
