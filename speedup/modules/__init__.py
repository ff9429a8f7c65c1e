"""Surgery on modules: copies, closures, attributes, rewritten forwards, fingerprints. Plans nothing."""
