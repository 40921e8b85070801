"""One file a command: options in, one call, tables on stdout, log on stderr."""
