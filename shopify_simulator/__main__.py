"""`python -m shopify_simulator`: see `shopify_simulator.server`."""

import argparse

from shopify_simulator.server import serve


def main() -> None:
    parser = argparse.ArgumentParser(prog="shopify_simulator")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency-ms", type=float, default=0)
    options = parser.parse_args()
    serve(options.host, options.port, options.latency_ms)


if __name__ == "__main__":
    main()
