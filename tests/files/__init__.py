"""Small models on disk, of this release and of earlier ones."""
