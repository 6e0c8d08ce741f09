"""The claims of the published study, one file each, and the registry that numbers them."""
