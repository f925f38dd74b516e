"""Programs to copy and change; docs/examples.md lists them."""
