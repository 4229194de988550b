"""The page of `tools.demo` without a server: what a folder for any web host holds."""
