"""An exported model behind HTTP: `python docs/serve.py served --port 8000`, then
`curl --data-binary @photo.jpg http://127.0.0.1:8000` answers with the five most probable classes as JSON."""

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

import vit_jax

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("model", help="a folder that 'vit_jax export' wrote")
parser.add_argument("--port", type=int, default=8000, help="0 for any that is free (default 8000)")
arguments = parser.parse_args()
model = vit_jax.load_exported(arguments.model)
model.top(np.zeros((*model.preprocess.image_size, 3), np.uint8))  # compiles before the first request


class Handler(BaseHTTPRequestHandler):
    timeout = 30  # seconds that a client may take

    def do_POST(self):
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or int(length[:9]) > 20_000_000:
            return self.answer(413, {"error": "Send an image of at most 20 MB, with its Content-Length"})
        try:
            self.answer(200, {"top": model.top(self.rfile.read(int(length[:9])))})
        except vit_jax.UserError as error:
            self.answer(400, {"error": str(error)})

    def answer(self, status, said):
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler)
print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
