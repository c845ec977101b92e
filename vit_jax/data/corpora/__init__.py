"""Collections of texts that are had as packages, written as files that the sources read: one module each, with
`write`. Nothing is downloaded: the packages are unpacked beforehand, see docs/data.md."""
