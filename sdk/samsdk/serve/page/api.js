// The service, from the page's side. The token comes in the address's fragment, which no server and no log sees.

const KEY = "samsdk-token";

/** What the service said, when it was no success. */
export class Problem extends Error {
  constructor(status, kind, detail) {
    super(detail);
    this.status = status;
    this.kind = kind;
  }
}

let askToken = async () => null;

/** Take the token out of the address, so that it is in no history; `ask` is called when one is missing or wrong. */
export function begin(ask) {
  askToken = ask;
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem(KEY, given);
    history.replaceState(null, "", location.pathname);
  }
}

async function send(method, path, { body, type, signal, keepalive = false } = {}) {
  const headers = {};
  const token = sessionStorage.getItem(KEY);
  if (token) headers.Authorization = `Bearer ${token}`;
  if (type) headers["Content-Type"] = type;
  let response;
  try {
    response = await fetch(path, { method, body, headers, signal, keepalive, credentials: "omit", cache: "no-store" });
  } catch {
    if (signal?.aborted) throw new Problem(0, "aborted", "Something else was asked for.");
    throw new Problem(0, "offline", "The service does not answer. Is it still running?");
  }
  if (response.status === 401 && !keepalive) {
    const entered = await askToken();
    if (entered) {
      sessionStorage.setItem(KEY, entered);
      return send(method, path, { body, type, signal });
    }
  }
  if (!response.ok) {
    const said = await response.json().catch(() => ({ error: "unknown", detail: `The service answered ${response.status}.` }));
    throw new Problem(response.status, said.error, said.detail);
  }
  return response;
}

const json = async (method, path, value) =>
  (await send(method, path, value === undefined ? {} : { body: JSON.stringify(value), type: "application/json" })).json();

export const models = () => json("GET", "/models");
export const openImage = async (file, frame) =>
  (await send("POST", `/sessions?frame=${frame}`, { body: file, type: "application/octet-stream" })).json();
export const levels = async (id) => (await send("GET", `/sessions/${id}/image`)).arrayBuffer();
export const prompt = (id, body) => json("POST", `/sessions/${id}/prompts`, body);
export const object = async (id, number, variations = 0, signal = undefined) =>
  (await send("GET", `/sessions/${id}/objects/${number}?variations=${variations}`, { signal })).json();
export const setSpacing = (id, spacing) => json("PATCH", `/sessions/${id}`, { spacing });
export const rename = (id, number, name) => json("PATCH", `/sessions/${id}/objects/${number}`, { name });
export const remove = (id, number) => send("DELETE", `/sessions/${id}/objects/${number}`);
export const step = (id, number, direction) => json("POST", `/sessions/${id}/objects/${number}/${direction}`);
export const close = (id, keepalive = false) => send("DELETE", `/sessions/${id}`, { keepalive });
export const download = async (id, kind, number) =>
  (await send("GET", `/sessions/${id}/files/${kind}${number ? `?object=${number}` : ""}`)).blob();
export const downloadDicom = async (id, kind, number, file) =>
  (await send("POST", `/sessions/${id}/dicom/${kind}${number ? `?object=${number}` : ""}`, { body: file, type: "application/dicom" })).blob();
