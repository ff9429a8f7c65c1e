"""What users test their own models with."""
