"""Orthanc plugin: a button "Similar cases" on an instance's page, which opens the search page with that instance.

For Orthanc's Python plugin (package orthanc-python); needs no other package. In orthanc.json:

    "PythonScript": "/path/to/indexer/serve/orthanc/similar_cases.py",
    "SimilarCases": {"Url": "http://127.0.0.1:8321", "Table": "mammograms", "TokenFile": "/etc/orthanc/token"}

`Url` is that of `indexer serve`; `PageUrl` is its address for browsers where that is another one; `TokenFile` is the
server's. The file goes to that server alone, which embeds it and does not store it. The browser gets the vector in the
fragment of the page's address, which is sent to no server.
"""

from __future__ import annotations

import base64
import http.client
import json
import struct
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import orthanc

ROUTE = "/similar-cases/([0-9a-f-]+)"
SECONDS = 60
BUTTON = """
$('#instance').live('pagebeforecreate', function() {
  var button = $('<a>').attr({'data-role': 'button', 'href': '#', 'data-icon': 'search'}).text('Similar cases');
  button.insertBefore($('#instance-delete').parent().parent());
  button.click(function() {
    if ($.mobile.pageData) window.open('../similar-cases/' + $.mobile.pageData.uuid);
  });
});
"""


def similar(output: Any, uri: str, **request: Any) -> None:
    """Answers GET /similar-cases/INSTANCE with the page of its similar cases, or with one line that says why not."""
    del uri
    if request["method"] != "GET":
        output.SendMethodNotAllowed("GET")
        return
    settings = json.loads(orthanc.GetConfiguration()).get("SimilarCases", {})
    try:
        server, table = settings["Url"].rstrip("/"), quote(settings["Table"], safe="")
        dicom = orthanc.GetDicomForInstance(request["groups"][0])
        vector = embedded(server, table, dicom, settings.get("TokenFile"))
    except KeyError as error:
        output.SendHttpStatus(500, f"orthanc.json: SimilarCases has no {error}.".encode())
    except (OSError, http.client.HTTPException, ValueError) as error:
        output.SendHttpStatus(502, f"No similar cases: {error}".encode())
    else:
        data = base64.urlsafe_b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        output.Redirect(f"{settings.get('PageUrl', server).rstrip('/')}/t/{table}#vector={data}")


def embedded(server: str, table: str, dicom: bytes, token_file: str | None) -> list[float]:
    """The instance's vector. Raises ValueError with the server's own words, OSError, HTTPException."""
    address = urlsplit(server)
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.netloc, timeout=SECONDS)
    headers = {"content-type": "application/json"}
    if token_file is not None:
        headers["authorization"] = f"Bearer {Path(token_file).read_text(encoding='utf-8').strip()}"
    body = json.dumps({"image": base64.b64encode(dicom).decode()})
    try:
        connection.request("POST", f"{address.path}/api/v1/tables/{table}/embed", body, headers)
        answer = connection.getresponse()
        found = json.loads(answer.read())
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise ValueError(found.get("detail", f"the server answered {answer.status}."))
    return list(found["vector"])


orthanc.RegisterRestCallback(ROUTE, similar)
orthanc.ExtendOrthancExplorer(BUTTON)
