import * as tf from "@tensorflow/tfjs";
import { startEngine } from "../core/engine.ts";
import { forward, uploadModel, logits, targetLogProbs } from "../models/llama.ts";
import { expectedTensors, memorySource, type LlamaConfig } from "../models/config.ts";
const e = await startEngine("tensorflow"); console.log(e);
const config: LlamaConfig = { vocabSize: 49152, width: 576, headSize: 64, layers: Array.from({length:30},()=>({kvGroups:3,queryHeadsPerGroup:3,ffnChannels:1536})), tiedHead:true, biases:[], ropeBase:100000, normEpsilon:1e-5, maxPositions:8192, bosTokenId:1,eosTokenId:2};
const src = memorySource(config, new Map()); src.read = (name) => { const shape = expectedTensors(config).get(name)!; const data=new Float32Array(shape.reduce((a,b)=>a*b)); for(let i=0;i<data.length;i++) data[i]=shape.length===1?1:(Math.random()-.5)*0.05; return {shape,data}; };
console.time("load"); const m = await uploadModel(src); console.timeEnd("load");
const T=1024; const tokens = Int32Array.from({length:T},()=>Math.floor(Math.random()*49152));
const N=5;
async function time(name:string,f:()=>Promise<void>|void){ for(let i=0;i<2;i++) await f(); const t=[];for(let i=0;i<N;i++){const s=performance.now();await f();t.push(performance.now()-s);} t.sort((a,b)=>a-b);console.log(name.padEnd(30),t.map(x=>x.toFixed(0)).join(" "));}

const b=(tf.backend() as any).binding; const orig=b.executeOp; const acc=new Map<string,[number,number]>(); let on=false;
const t=b; const nb:any=Object.create(null); for(const k of Object.getOwnPropertyNames(b)) nb[k]=b[k]; nb.executeOp=(name:string,a:any,i:any,n:any)=>{const s=performance.now(); const r=orig.call(t,name,a,i,n); if(on){const key=name+" "+r.map((o:any)=>o.shape).join("|"); const e=acc.get(key)??[0,0]; e[0]+=performance.now()-s; e[1]++; acc.set(key,e);} return r;}; (tf.backend() as any).binding=nb;
async function prof(name:string,f:()=>Promise<void>){await f(); acc.clear(); on=true; const s=performance.now(); await f(); const tot=performance.now()-s; on=false; console.log(name,tot.toFixed(0)); for(const [k,[t,n]] of [...acc].sort((a,b)=>b[1][0]-a[1][0]).slice(0,28)) console.log("  ",t.toFixed(0).padStart(6),String(n).padStart(5),k);}
await prof("hidden only", async()=>{const h=forward(m,{tokens,batch:1,length:T}); await tf.tidy(()=>tf.sum(h)).data(); h.dispose();});
await prof("hidden 2", async()=>{const h=forward(m,{tokens,batch:1,length:T}); await tf.tidy(()=>tf.sum(h)).data(); h.dispose();});
