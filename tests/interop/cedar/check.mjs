// Decides what `muster-policies export` wrote with the WASM build of Cedar, and compares.
//
// usage: node check.mjs DIR; CEDAR_HOME is where its packages are installed.
//
// Prints one result line for each check, as tests/interop/README.md describes.

import { readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.env.CEDAR_HOME, "package.json"));
const cedar = require("@cedar-policy/cedar-wasm/nodejs");

const folder = process.argv[2];
const read = (name) => readFileSync(join(folder, name), "utf8");

const say = (check, ok, detail) =>
  console.log(
    JSON.stringify({
      client: "cedar-wasm",
      version: cedar.getCedarSDKVersion(),
      check,
      ok,
      detail,
    }),
  );

const schema = read("schema.cedarschema");
const sets = readdirSync(folder)
  .filter((name) => name.endsWith(".cedar"))
  .map((name) => name.slice(0, -".cedar".length))
  .sort();

const faults = [];
for (const set of sets) {
  const policies = JSON.parse(read(`${set}.json`));
  const answer = cedar.validate({ schema, policies });
  const found =
    answer.type === "success" ? answer.validationErrors : answer.errors;
  faults.push(...found.map((fault) => `${set}: ${JSON.stringify(fault)}`));
}
say("cedar-schema", faults.length === 0, faults[0] ?? `${sets.length} sets are valid`);

const parsed = cedar.preparseSchema("muster", schema);
if (parsed.type !== "success") throw new Error(JSON.stringify(parsed));

const differences = [];
let decided = 0;
let allowed = 0;
let failures = 0;
for (const set of sets) {
  const taken = cedar.preparsePolicySet(set, JSON.parse(read(`${set}.json`)));
  if (taken.type !== "success") throw new Error(JSON.stringify(taken));
  const lines = read(`${set}.requests.jsonl`).split("\n").filter(Boolean);
  for (const [number, line] of lines.entries()) {
    const { request, ...ours } = JSON.parse(line);
    const answer = cedar.statefulIsAuthorized({
      ...request,
      preparsedPolicySetId: set,
      preparsedSchemaName: "muster",
      validateRequest: true,
    });
    if (answer.type !== "success") {
      differences.push(`${set}#${number}: ${JSON.stringify(answer)}`);
      continue;
    }
    const { decision, diagnostics } = answer.response;
    const failed = diagnostics.errors.map((error) => error.policyId).sort();
    // Ours: what could not be evaluated refuses, where Cedar passes over it and names what it found else.
    const theirs = decision === "allow" && failed.length === 0 ? "allow" : "refuse";
    const reasons = [...diagnostics.reason].sort();
    const same =
      theirs === ours.verdict &&
      JSON.stringify(failed) === JSON.stringify(ours.failed) &&
      (ours.reason === "policy_failed" ||
        JSON.stringify(reasons) === JSON.stringify(ours.policies));
    if (!same) {
      const there = JSON.stringify({ decision, reasons, failed });
      differences.push(`${set}#${number}: ${JSON.stringify(ours)}, there ${there}`);
    }
    decided += 1;
    allowed += theirs === "allow" ? 1 : 0;
    failures += failed.length > 0 ? 1 : 0;
  }
}
const enough = allowed > 0 && allowed < decided && failures > 0;
say(
  "cedar-decisions",
  differences.length === 0 && enough,
  differences.length > 0
    ? `${differences.length} of ${decided} differ: ${differences[0]}`
    : `${decided} requests, ${allowed} allowed, ${failures} with a policy that fails`,
);
