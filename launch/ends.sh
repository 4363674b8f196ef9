# Sourced: waits for a command in the background, and explains its exit code.

# Waits for process $1, whatever signals come meanwhile, and leaves its exit code in `code`.
wait_for() {
  code=0
  wait "$1" || code=$?
  while kill -0 "$1" 2>/dev/null; do  # a signal interrupts the first wait
    code=0
    wait "$1" || code=$?
  done
}

# Explains an exit code from a signal in native code: SIGILL, SIGABRT, SIGBUS, SIGSEGV.
say_signal() {
  case "$1" in
    132 | 134 | 135 | 139)
      echo "ended by signal $(($1 - 128)) in native code; if that happens again," \
        "--config.kernels=reference computes with XLA's own kernels alone" >&2
      ;;
  esac
}
