module coffer.dev/conformance/plugin

go 1.26.0
