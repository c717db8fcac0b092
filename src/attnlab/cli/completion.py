"""`attnlab completion`."""

import shlex
import sys
from typing import Annotated, Literal

# Python is asked about what stands left of the cursor; `python` itself is completed as before unless train.py follows.
BASH = r"""_attnlab() {
  local line="${COMP_LINE:0:COMP_POINT}" breaks="${COMP_WORDBREAKS//[^=:]/}"
  local IFS=$'\n'
  COMPREPLY=($(ASK "$line" "$breaks" 2>/dev/null))
}
complete -o nospace -o default -o bashdefault -F _attnlab attnlab python python3 train.py
"""
ZSH = r"""_attnlab() {
  local -a answers
  answers=("${(@f)$(ASK "$LBUFFER" "" 2>/dev/null)}")
  compadd -Q -S '' -- ${answers:#}
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
compdef _attnlab attnlab train.py
"""
FISH = r"""for program in attnlab train.py
  complete -c $program -f -a '(ASK (commandline -cp | string collect) 2>/dev/null)'
end
complete -c python -c python3 -a '(ASK (commandline -cp | string collect) 2>/dev/null)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def completion(*, shell: Annotated[Literal["bash", "zsh", "fish"], "which one completes"]) -> None:
    """Print what lets a shell complete attnlab and train.py: eval "$(attnlab completion shell=bash)"."""
    ask = shlex.join([sys.executable, "-m", "attnlab.cli._candidates"])
    print(SCRIPTS[shell].replace("ASK", ask.replace("'", r"'\''") if shell == "fish" else ask), end="")
