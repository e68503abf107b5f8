// OpenFeature's stock provider for remote evaluation gets agents, and its default where there is none.
//
//     ofrep_provider.mjs URL

import assert from 'node:assert/strict';

import { OFREPProvider } from '@openfeature/ofrep-provider';
import { OpenFeature } from '@openfeature/server-sdk';

const [url] = process.argv.slice(2);

async function report(outcome) {
  const answer = await fetch(`${url}/api/learning/outcomes?wait=true`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ tenant_id: 'flags-js', ...outcome }),
  });
  assert.equal(answer.status, 200);
}

const of = (targetingKey, attributes) => ({ targetingKey, tenant_id: 'flags-js', ...attributes });

await OpenFeature.setProviderAndWait(new OFREPProvider({ baseUrl: url }));
const client = OpenFeature.getClient();

const nobody = await client.getStringDetails('review', 'default', of('user-1'));
assert.deepEqual([nobody.value, nobody.errorCode], ['default', 'FLAG_NOT_FOUND']);

for (const agent_name of ['a', 'b']) await report({ agent_name, task_type: 'review', status: 'success' });
const keys = Array.from({ length: 64 }, (_, number) => `user-${number}`);
const values = () => Promise.all(keys.map((key) => client.getStringValue('review', 'default', of(key, { size: 3 }))));
const first = await values();
assert.deepEqual(await values(), first);
assert.deepEqual([...new Set(first)].sort(), ['a', 'b']);

const chosen = await client.getStringDetails('review', 'default', of('user-1', { size: 3 }));
assert.deepEqual([chosen.value, chosen.variant, chosen.reason], [first[1], first[1], 'SPLIT']);
const { decision_id } = chosen.flagMetadata;
await report({ agent_name: chosen.value, status: 'failure', decision_id });
const answer = await fetch(`${url}/api/learning/decisions/${decision_id}?tenant_id=flags-js`);
const recorded = await answer.json();
assert.deepEqual([recorded.chosen, recorded.outcome.status], [chosen.value, 'failure']);

const wrong = await client.getStringDetails('review', 'default', of('user-1', { candidates: 'a' }));
assert.deepEqual([wrong.value, wrong.errorCode], ['default', 'INVALID_CONTEXT']);
