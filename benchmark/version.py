"""The version of the code, apart from what a number's identity hangs on."""

VERSION = "0.1.0"
