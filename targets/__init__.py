"""Facts about devices, one TOML file each. Installed as `edgec.targets`."""
