"""What is checked inside a booted systemd, on the units as they are shipped."""
