"""Surgery on modules, without any plan."""
