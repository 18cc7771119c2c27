"""An experiment file read, checked and resolved: YAML to runs with an identity. Imports no torch."""
