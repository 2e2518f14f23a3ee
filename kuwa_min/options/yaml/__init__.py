"""A strict parser for the subset of YAML that option files use, for where PyYAML is missing."""
