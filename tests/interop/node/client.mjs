// grpc-js with our own .proto against a Workload API: one JSON line a check. See ../README.md.

import { createPrivateKey, createPublicKey, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

// The modules are installed in the folder that `cargo xtask interop` names, not beside this file.
const require = createRequire(join(process.env.INTEROP_NODE_HOME ?? dirname(fileURLToPath(import.meta.url)), "x.js"));
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");
const { createLocalJWKSet, jwtVerify } = await import(require.resolve("jose"));

const AUDIENCE = "interop";
const ANSWER_WITHIN = 60_000;
const ROTATION_WITHIN = 180_000;

const [command, socket, spiffeId, ...names] = process.argv.slice(2);
if (command !== "checks" || !spiffeId) {
  console.error("usage: client.mjs checks SOCKET SPIFFE_ID CHECK...");
  process.exit(2);
}
const trustDomain = spiffeId.split("/").slice(0, 3).join("/");

const definition = protoLoader.loadSync("spiffe/workload/workloadapi.proto", {
  includeDirs: [process.env.INTEROP_PROTO],
  keepCase: true,
});
const { SpiffeWorkloadAPI } = grpc.loadPackageDefinition(definition);
const api = new SpiffeWorkloadAPI(`unix:${socket}`, grpc.credentials.createInsecure());

function header() {
  const metadata = new grpc.Metadata();
  metadata.set("workload.spiffe.io", "true");
  return metadata;
}

/** A unary call as a promise. */
function unary(method, request) {
  return new Promise((resolve, reject) => {
    api[method](request, header(), { deadline: Date.now() + ANSWER_WITHIN }, (error, answer) =>
      error ? reject(error) : resolve(answer),
    );
  });
}

/** The messages of a stream, until the caller stops reading. */
async function* stream(method, within) {
  const call = api[method]({}, header(), { deadline: Date.now() + within });
  try {
    for await (const message of call) yield message;
  } finally {
    call.on("error", () => {});
    call.cancel();
  }
}

async function first(method) {
  for await (const message of stream(method, ANSWER_WITHIN)) return message;
  throw new Error(`${method} ended with OK`);
}

/** The gRPC status with which a promise fails; OK when it does not. */
async function statusOf(promise) {
  try {
    await promise;
    return grpc.status[grpc.status.OK];
  } catch (error) {
    if (error.code === undefined) throw error;
    return grpc.status[error.code];
  }
}

function demand(condition, text) {
  if (!condition) throw new Error(text);
}

// X.509

/** Splits certificates that stand one after the other, by their DER lengths. */
function certificates(der) {
  const found = [];
  for (let at = 0; at < der.length; ) {
    let length = der[at + 1];
    let head = 2;
    if (length & 0x80) {
      const bytes = length & 0x7f;
      length = der.readUIntBE(at + 2, bytes);
      head += bytes;
    }
    found.push(new X509Certificate(der.subarray(at, at + head + length)));
    at += head + length;
  }
  return found;
}

/** Proves one update: name, key and validity, and the chain up to the bundle beside it. */
function verify(update) {
  const svid = update.svids[0];
  const chain = certificates(svid.x509_svid);
  const leaf = chain[0];
  demand(svid.spiffe_id === spiffeId, `the SVID is for ${svid.spiffe_id}, not for ${spiffeId}`);
  demand(leaf.subjectAltName?.includes(`URI:${spiffeId}`), `the certificate names ${leaf.subjectAltName}`);
  const key = createPrivateKey({ key: svid.x509_svid_key, format: "der", type: "pkcs8" });
  demand(createPublicKey(key).equals(leaf.publicKey), "the key does not belong to the certificate");
  const now = Date.now();
  demand(Date.parse(leaf.validFrom) <= now && now < Date.parse(leaf.validTo), "the SVID is not valid now");
  chain.slice(1).forEach((issuer, at) => demand(chain[at].verify(issuer.publicKey), "the chain is broken"));
  const signer = certificates(svid.bundle).find((authority) => chain.at(-1).verify(authority.publicKey));
  demand(signer, "no authority of the bundle signed the chain");
  return { leaf, length: chain.length };
}

async function x509Svid() {
  const { length } = verify(await first("FetchX509SVID"));
  return `${spiffeId}, ${length} certificate(s), chain verified`;
}

async function x509Bundles() {
  const { bundles } = await first("FetchX509Bundles");
  demand(bundles[trustDomain], `no bundle for ${trustDomain}`);
  return `${certificates(bundles[trustDomain]).length} authorities`;
}

async function rotation() {
  const began = Date.now();
  const serials = new Set();
  for await (const update of stream("FetchX509SVID", ROTATION_WITHIN)) {
    serials.add(verify(update).leaf.serialNumber);
    if (serials.size === 3) return `3 serials on one stream in ${Math.round((Date.now() - began) / 1000)} s`;
  }
  throw new Error(`the stream ended with OK after ${serials.size} serial(s)`);
}

// JWT

async function token(...audience) {
  const { svids } = await unary("FetchJWTSVID", { audience });
  demand(svids[0].spiffe_id === spiffeId, `the token is for ${svids[0].spiffe_id}, not for ${spiffeId}`);
  return svids[0].svid;
}

async function keySet() {
  const { bundles } = await first("FetchJWTBundles");
  demand(bundles[trustDomain], `no key set for ${trustDomain}`);
  return JSON.parse(bundles[trustDomain].toString());
}

async function jwtSvid() {
  const claims = decode((await token(AUDIENCE, "second")).split(".")[1]);
  demand(claims.sub === spiffeId, `the subject is ${claims.sub}, not ${spiffeId}`);
  demand([AUDIENCE, "second"].every((one) => claims.aud.includes(one)), `the audience is ${claims.aud}`);
  return `${claims.sub} for ${claims.aud}`;
}

async function jwtBundles() {
  const { keys } = await keySet();
  demand(keys.length > 0, "the key set is empty");
  return `${keys.length} keys`;
}

async function jwtValid() {
  const own = await token(AUDIENCE);
  const remote = await unary("ValidateJWTSVID", { audience: AUDIENCE, svid: own });
  demand(remote.spiffe_id === spiffeId, `validated as ${remote.spiffe_id}, not as ${spiffeId}`);
  const local = await jwtVerify(own, createLocalJWKSet(await keySet()), { audience: AUDIENCE });
  demand(local.payload.sub === spiffeId, `jose reads ${local.payload.sub}, not ${spiffeId}`);
  return "accepted by the Workload API and by jose";
}

function decode(part) {
  return JSON.parse(Buffer.from(part, "base64url").toString());
}

async function jwtTampered() {
  const own = await token(AUDIENCE);
  const keys = createLocalJWKSet(await keySet());
  const [head, payload, signature] = own.split(".");
  const claims = decode(payload);
  claims.sub += "-forged";
  const flipped = Buffer.from(signature, "base64url");
  flipped[flipped.length >> 1] ^= 1;
  const cases = [
    ["another subject", [head, Buffer.from(JSON.stringify(claims)).toString("base64url"), signature].join("."), AUDIENCE],
    ["another signature", [head, payload, flipped.toString("base64url")].join("."), AUDIENCE],
    ["another audience", own, "someone else"],
  ];
  for (const [what, svid, audience] of cases) {
    const code = await statusOf(unary("ValidateJWTSVID", { audience, svid }));
    demand(code === "INVALID_ARGUMENT", `the Workload API answers ${what} by ${code}, not INVALID_ARGUMENT`);
    const accepted = await jwtVerify(svid, keys, { audience }).then(() => true, () => false);
    demand(!accepted, `jose accepts ${what}`);
  }
  return "another subject, another signature and another audience refused";
}

// Denial

async function denied() {
  const codes = await Promise.all([
    statusOf(first("FetchX509SVID")),
    statusOf(first("FetchJWTBundles")),
    statusOf(unary("FetchJWTSVID", { audience: [AUDIENCE] })),
  ]);
  demand(codes.every((code) => code === "PERMISSION_DENIED"), `answered by ${codes}`);
  const bare = await statusOf(
    new Promise((resolve, reject) => {
      const deadline = { deadline: Date.now() + ANSWER_WITHIN };
      api.FetchJWTSVID({ audience: [AUDIENCE] }, deadline, (error, answer) => (error ? reject(error) : resolve(answer)));
    }),
  );
  demand(bare === "INVALID_ARGUMENT", `a call without the security header is answered by ${bare}`);
  return "PERMISSION_DENIED on streams and calls; INVALID_ARGUMENT without the security header";
}

const checks = {
  "x509-svid": x509Svid,
  "x509-bundles": x509Bundles,
  "jwt-svid": jwtSvid,
  "jwt-bundles": jwtBundles,
  "jwt-valid": jwtValid,
  "jwt-tampered": jwtTampered,
  rotation,
  denied,
};
const { version } = JSON.parse(readFileSync(require.resolve("@grpc/grpc-js/package.json")));
for (const check of names) {
  let ok = true;
  let detail;
  try {
    detail = await checks[check]();
  } catch (error) {
    ok = false;
    detail = String(error);
  }
  console.log(JSON.stringify({ client: "grpc-js", version, check, ok, detail }));
}
api.close();
